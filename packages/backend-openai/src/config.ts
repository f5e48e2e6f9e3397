/** What `engine.config` says, with its defaults. */
export interface OpenAiServerConfig {
  readonly baseUrl: string;
  readonly model: string;
  readonly apiKey: string;
  readonly organization: string;
  readonly project: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly prompt: 'auto' | 'tokens' | 'text';
  readonly extensions: 'auto' | 'all' | 'none';
  readonly maxSequences: number;
  readonly maxWaiting: number;
  readonly maxModelTokens: number;
  readonly totalBlocks: number;
  readonly canary: 'models' | 'completion';
  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
  readonly failuresToLeave: number;
  readonly startTimeoutMs: number;
  readonly idleTimeoutMs: number;
}

const text = (description: string, more: object = {}): object => ({ type: 'string', description, default: '', ...more });
const count = (description: string, value: number, minimum: number): object => ({ type: 'integer', minimum, description, default: value });

export const openaiServerSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['baseUrl'],
  properties: {
    baseUrl: { type: 'string', pattern: '^https?://.*[^/]$', description: 'Where the API begins, as OpenAI clients take it, without a slash at the end: http://127.0.0.1:8000/v1.' },
    model: text('Name of the model there; empty = the first of /models.'),
    apiKey: text('Bearer token, if the server asks for one.', { 'x-secret': true }),
    organization: text('Sent as OpenAI-Organization.'),
    project: text('Sent as OpenAI-Project.'),
    headers: { type: 'object', additionalProperties: { type: 'string' }, 'x-secret': true, description: 'More headers of every request.', default: {} },
    prompt: { enum: ['auto', 'tokens', 'text'], description: 'How prompts are sent; auto: token ids if a request of one token at start is understood, else text.', default: 'auto' },
    extensions: {
      enum: ['auto', 'all', 'none'],
      description: 'Fields beyond the OpenAI API (top_k, min_p, repetition_penalty, stop_token_ids, ignore_eos, min_tokens, cache_salt); auto: those that the server named by owned_by in /models is known to have. Without a field, requests that need it are refused.',
      default: 'auto',
    },
    maxSequences: count('Choices that run there at once; more requests wait here.', 64, 1),
    maxWaiting: count('Requests that may wait; more are refused with ENGINE_OVERLOADED.', 256, 0),
    maxModelTokens: count('Longest prompt plus output; 0 = the least of what the model and the server say.', 0, 0),
    totalBlocks: count('Size of the server’s prefix cache in blocks, as the router is to assume it; 0 = maxSequences whole contexts.', 0, 0),
    canary: { enum: ['models', 'completion'], description: 'What is asked to see that the server lives: GET /models, or a completion of one token.', default: 'models' },
    probeIntervalMs: count('Milliseconds between those questions.', 2000, 10),
    probeTimeoutMs: count('Milliseconds until one of them counts as failed.', 5000, 1),
    failuresToLeave: count('Failures in a row, of questions and of connections, after which the worker has failed.', 3, 1),
    startTimeoutMs: count('How long to wait for the server at start, in milliseconds.', 120_000, 0),
    idleTimeoutMs: count('Milliseconds without an event until a request counts as lost, its time in the queue of the server included; 0 = no limit.', 120_000, 0),
  },
} as const;
