import { ArmatureError } from '@armature/contracts';
import type { AdminHandler, AdminRoutes, Logger } from '@armature/contracts';

interface Route {
  readonly pattern: string;
  readonly parts: readonly string[];
  readonly description: string;
  readonly handler: AdminHandler;
}

type Answer = { status: number; contentType: string; body: string };

/** Read-only routes by pattern (`/things/:id`); the first registered match answers. Who listens is not decided here. */
export class AdminRouteTable implements AdminRoutes {
  readonly #routes: Route[] = [];
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  get(pattern: string, description: string, handler: AdminHandler): () => void {
    if (!pattern.startsWith('/')) {
      throw new ArmatureError('ADMIN_PATTERN_INVALID', `admin route "${pattern}" does not start with "/"`, { hint: 'write it like "/workers/:name"' });
    }
    if (this.#routes.some((route) => route.pattern === pattern)) {
      throw new ArmatureError('ADMIN_ROUTE_TAKEN', `admin route "${pattern}" is registered already`, { hint: 'choose another path, or un-register the first one' });
    }
    const route: Route = { pattern, parts: split(pattern), description, handler };
    this.#routes.push(route);
    return () => {
      const index = this.#routes.indexOf(route);
      if (index >= 0) this.#routes.splice(index, 1);
    };
  }

  list(): readonly { readonly pattern: string; readonly description: string }[] {
    return this.#routes.map(({ pattern, description }) => ({ pattern, description }));
  }

  async handle(path: string, query: URLSearchParams): Promise<Answer> {
    const parts = split(path);
    for (const route of this.#routes) {
      const params = match(route.parts, parts);
      if (params === undefined) continue;
      try {
        return toAnswer(await route.handler({ path, params, query }));
      } catch (error) {
        const known = ArmatureError.from(error);
        this.#log.warn('admin route failed', { pattern: route.pattern, code: known.code, error: known.message });
        return json(known.code.endsWith('_NOT_FOUND') ? 404 : 500, { error: known.toData() });
      }
    }
    if (parts.length === 0) return json(200, { routes: this.list() });
    return json(404, { error: { code: 'ADMIN_NOT_FOUND', message: `no admin route for ${path}`, hint: 'GET / lists the routes' } });
  }
}

function toAnswer(value: unknown): Answer {
  if (value === undefined) return json(404, { error: { code: 'ADMIN_NOT_FOUND', message: 'nothing by this name' } });
  if (typeof value === 'string') return { status: 200, contentType: 'text/plain; charset=utf-8', body: value };
  return json(200, value);
}

function json(status: number, value: unknown): Answer {
  return { status, contentType: 'application/json; charset=utf-8', body: JSON.stringify(value, toJson) };
}

/** Columns as arrays, 64-bit integers as decimal text. */
function toJson(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  return ArrayBuffer.isView(value) && !(value instanceof DataView) ? Array.from(value as Uint8Array) : value;
}

function split(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}

function match(pattern: readonly string[], parts: readonly string[]): Record<string, string> | undefined {
  if (pattern.length !== parts.length) return undefined;
  const params: Record<string, string> = {};
  for (let i = 0; i < pattern.length; i++) {
    const want = pattern[i];
    const have = parts[i];
    if (want.startsWith(':')) {
      try {
        params[want.slice(1)] = decodeURIComponent(have);
      } catch {
        return undefined;
      }
    } else if (want !== have) return undefined;
  }
  return params;
}
