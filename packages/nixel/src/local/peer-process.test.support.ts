import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { PeerSegment, TransferPeer, TransportMetadata } from '@armature/contracts';

export interface OwnerHello {
  readonly metadata: TransportMetadata;
  readonly incarnation: string;
}

export type OwnerCommand =
  | { readonly do: 'add'; readonly lengthBytes: number; readonly seed: number; readonly isShared: boolean; readonly access: 'open' | 'closed' | 'read' }
  | { readonly do: 'release'; readonly segment: number }
  | { readonly do: 'close-access'; readonly segment: number }
  | { readonly do: 'flip'; readonly segment: number; readonly offset: number }
  | { readonly do: 'sum'; readonly segment: number }
  | { readonly do: 'block'; readonly ms: number }
  | { readonly do: 'seen' };

/** What one process holds of the kernel. */
export interface Held {
  readonly fds: number;
  readonly maps: number;
}

export function held(): Held {
  return { fds: readdirSync('/proc/self/fd').length, maps: readFileSync('/proc/self/maps', 'latin1').split('\n').length };
}

/** Runs TypeScript sources in a child: types are stripped by the compiler the repository has anyway. */
const LOADER = `import { register } from 'node:module';
register('data:text/javascript,' + encodeURIComponent(\`
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
const ts = createRequire(${JSON.stringify(import.meta.url)})('typescript');
export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context);
  const { outputText } = ts.transpileModule(readFileSync(fileURLToPath(url), 'utf8'), { compilerOptions: { module: 'esnext', target: 'es2022', verbatimModuleSyntax: true } });
  return { format: 'module', source: outputText, shortCircuit: true };
}
\`));`;

/** The owner of remote memory as a process of its own. */
export class OwnerProcess {
  readonly child: ChildProcess;
  readonly #answers: ((answer: unknown) => void)[] = [];
  readonly segments = new Map<number, PeerSegment>();
  hello!: OwnerHello;

  private constructor(transport: 'shm' | 'cma', incarnation: string) {
    const script = fileURLToPath(new URL('./owner-process.test.support.ts', import.meta.url));
    const loader = `data:text/javascript,${encodeURIComponent(LOADER)}`;
    this.child = fork(script, [transport, incarnation], { execArgv: ['-C', '@armature/source', '--no-warnings', '--import', loader], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.child.on('message', (answer) => this.#answers.shift()?.(answer));
  }

  static async start(transport: 'shm' | 'cma', incarnation = 'owner-1'): Promise<OwnerProcess> {
    const owner = new OwnerProcess(transport, incarnation);
    owner.hello = (await owner.#answer()) as OwnerHello;
    return owner;
  }

  get peer(): TransferPeer {
    return { name: 'owner', incarnation: this.hello.incarnation, metadata: this.hello.metadata, segments: this.segments };
  }

  async add(lengthBytes: number, options: { seed?: number; isShared?: boolean; access?: 'open' | 'closed' | 'read' } = {}): Promise<number> {
    const segment = (await this.ask({ do: 'add', lengthBytes, seed: options.seed ?? 1, isShared: options.isShared ?? true, access: options.access ?? 'open' })) as PeerSegment;
    this.segments.set(segment.id, segment);
    return segment.id;
  }

  ask(command: OwnerCommand): Promise<unknown> {
    this.child.send(command);
    return this.#answer();
  }

  /** Does not wait for the answer. */
  tell(command: OwnerCommand): void {
    this.child.send(command);
    this.#answers.push(() => undefined);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill(signal);
    await exited;
  }

  #answer(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('the owner process did not answer within 20 s')), 20_000);
      this.#answers.push((answer) => {
        clearTimeout(timer);
        resolve(answer);
      });
    });
  }
}

/** What the owner writes into its memory; both sides compute it. */
export function pattern(lengthBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, lengthBytes >> 2);
  let state = seed >>> 0;
  for (let i = 0; i < words.length; i++) words[i] = state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return bytes;
}
