import { ArmatureError } from '@armature/contracts';

/** The part of uWebSockets.js used here. Its own types are not imported: the package is optional, also for the compiler. */
export interface UwsResponse {
  onAborted(callback: () => void): UwsResponse;
  onData(callback: (chunk: ArrayBuffer, isLast: boolean) => void): UwsResponse;
  writeStatus(status: string): UwsResponse;
  writeHeader(name: string, value: string): UwsResponse;
  /** False: not everything was accepted by the socket. */
  write(chunk: string | Uint8Array): boolean;
  end(body?: string | Uint8Array, closeConnection?: boolean): UwsResponse;
  endWithoutBody(): UwsResponse;
  cork(callback: () => void): UwsResponse;
  close(): UwsResponse;
}

export interface UwsRequest {
  getUrl(): string;
  getQuery(): string | undefined;
  getCaseSensitiveMethod(): string;
  getHeader(name: string): string;
  forEach(callback: (name: string, value: string) => void): void;
}

export interface UwsApp {
  any(pattern: string, handler: (response: UwsResponse, request: UwsRequest) => void): UwsApp;
  listen(host: string, port: number, options: number, callback: (socket: object | false) => void): UwsApp;
  close(): UwsApp;
}

export interface UwsModule {
  App(): UwsApp;
  us_listen_socket_close(socket: object): void;
  us_socket_local_port(socket: object): number;
  readonly LIBUS_LISTEN_EXCLUSIVE_PORT: number;
}

export const INSTALL_HINT = 'run `npm install uWebSockets.js@npm:uws-pack@20.0.8` with Node 20 or 22, or name `server: { use: node }`';

export type UwsAvailability = { readonly available: true; readonly uws: UwsModule } | { readonly available: false; readonly error: ArmatureError };

/** How the module is found; tests pass another one to simulate its absence. */
export type ImportUws = () => Promise<unknown>;

const importUws: ImportUws = () => {
  // Not a literal: the compiler must not look for an optional package.
  const name = 'uWebSockets.js';
  return import(name);
};

/**
 * Whether uWebSockets.js can be used in this process: it is installed and has a binary for this Node.
 * Never rejects; the reason is an `HTTP_UWS_UNAVAILABLE` with the install line as its hint.
 */
export async function available(load: ImportUws = importUws): Promise<UwsAvailability> {
  try {
    const loaded = (await load()) as { readonly default?: unknown };
    const uws = (typeof (loaded as Partial<UwsModule>).App === 'function' ? loaded : loaded.default) as Partial<UwsModule> | undefined;
    if (typeof uws?.App !== 'function' || typeof uws.us_listen_socket_close !== 'function') throw new Error('the module has no App()');
    return { available: true, uws: uws as UwsModule };
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0]! : String(error);
    return { available: false, error: new ArmatureError('HTTP_UWS_UNAVAILABLE', `uWebSockets.js cannot be used: ${reason}`, { hint: INSTALL_HINT, cause: error }) };
  }
}
