import { ArmatureError } from '@armature/contracts';
import type { Logger } from '@armature/contracts';
import type { VllmAnswer } from './vllm-http.ts';

export interface ModelCard {
  readonly id: string;
  readonly max_model_len?: number | null;
  readonly root?: string | null;
  /** Of a LoRA adapter: the model it belongs to. */
  readonly parent?: string | null;
}

/**
 * The model that is served, and the LoRA adapters beside it. Throws `VLLM_REFUSED`, `VLLM_ANSWER_INVALID`, `VLLM_MODEL_UNKNOWN`.
 */
export function modelsIn({ status, ok, text }: VllmAnswer, config: { readonly baseUrl: string; readonly model: string }): { readonly model: ModelCard; readonly adapters: readonly string[] } {
  if (!ok) throw new ArmatureError('VLLM_REFUSED', `vLLM answered ${status} to /v1/models`, { hint: 'does it need engine.config.apiKey?' });
  const cards = modelCards(text);
  if (cards === undefined) throw new ArmatureError('VLLM_ANSWER_INVALID', `${config.baseUrl}/v1/models is not a list of models`, { hint: 'is engine.config.baseUrl a vLLM server?' });
  const isAdapter = ({ parent }: ModelCard): boolean => typeof parent === 'string' && parent !== '';
  const model = config.model === '' ? (cards.find((card) => !isAdapter(card)) ?? cards[0]) : cards.find((entry) => entry.id === config.model);
  if (model === undefined) {
    throw new ArmatureError('VLLM_MODEL_UNKNOWN', `vLLM at ${config.baseUrl} does not serve "${config.model}"`, { hint: `it serves: ${cards.map((entry) => entry.id).join(', ') || 'nothing'}` });
  }
  return { model, adapters: cards.filter((card) => card !== model && isAdapter(card)).map(({ id }) => id) };
}

/** Not fatal: what is needed of it is checked where it is used. */
export function lookAtVersion(answer: VllmAnswer | undefined, log: Logger): string | undefined {
  const version = answer?.ok === true ? versionIn(answer.text) : undefined;
  if (version === undefined) log.info('vLLM does not tell its version');
  else if (isKnownVersion(version)) log.info('vLLM found', { version });
  else log.warn('this version of vLLM is not known here', { code: 'VLLM_VERSION_UNKNOWN', version, known: '0.11 to 0.33', hint: 'look for failures after an upgrade of vLLM; its formats are in packages/backend-vllm/fixtures' });
  return version;
}

/** Throws `VLLM_BLOCK_SIZE_MISMATCH`. */
export function checkBlockSize(found: number, blockSize: number): void {
  if (found === blockSize) return;
  throw new ArmatureError('VLLM_BLOCK_SIZE_MISMATCH', `vLLM uses blocks of ${found} tokens, the configuration says ${blockSize}`, { hint: `set models[].blockSize: ${found}, or start vLLM with --block-size ${blockSize}` });
}

/** Whether /kv_event_sources says that this rank publishes nothing. Servers that do not know the route say nothing. */
export function silentSources(answer: VllmAnswer | undefined, rank: number): boolean {
  if (answer?.ok !== true) return false;
  try {
    const sources = JSON.parse(answer.text) as Readonly<Record<string, unknown>> | null;
    // A server behind a load balancer of its own has one rank, of any number.
    return typeof sources === 'object' && sources !== null && !(String(rank) in sources) && (rank > 0 || Object.keys(sources).length === 0);
  } catch {
    return false;
  }
}

/** vLLM says `{error: {message}}`; a proxy may say anything. */
export function errorText(text: string): string {
  try {
    const found = JSON.parse(text) as { error?: { message?: string }; message?: string } | null;
    return found?.error?.message ?? found?.message ?? 'no reason given';
  } catch {
    return text === '' ? 'no reason given' : text.slice(0, 200);
  }
}

function modelCards(text: string): readonly ModelCard[] | undefined {
  try {
    const { data } = JSON.parse(text) as { data?: unknown };
    return Array.isArray(data) && data.every((entry) => typeof (entry as ModelCard | null)?.id === 'string') ? (data as ModelCard[]) : undefined;
  } catch {
    return undefined;
  }
}

function versionIn(text: string): string | undefined {
  try {
    const { version } = JSON.parse(text) as { version?: unknown };
    return typeof version === 'string' ? version : undefined;
  } catch {
    return undefined;
  }
}

function isKnownVersion(version: string): boolean {
  const [, minor = ''] = /^0\.(\d+)\./.exec(version) ?? [];
  return minor !== '' && Number(minor) >= 11 && Number(minor) <= 33;
}
