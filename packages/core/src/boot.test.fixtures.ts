import { definePlugin } from '@armature/contracts';
import type { Deployment, DeploymentContext, PluginDescriptor, PluginSlot, Scope } from '@armature/contracts';

/** What happened, in order, for tests of the lifecycle. */
export type Trail = string[];

interface ModelConfig {
  readonly name: string;
  readonly router: PluginSlot;
  readonly workers: readonly { readonly name: string; readonly replicas: number; readonly engine: PluginSlot }[];
}
export interface RootConfig {
  readonly discovery: PluginSlot;
  readonly models: readonly ModelConfig[];
}

/** A small deployment with the three scopes of the real one. */
export class TestDeployment implements Deployment {
  readonly context: DeploymentContext;
  readonly config: RootConfig;
  readonly models: Scope[] = [];
  readonly workers: Scope[] = [];
  readonly #trail: Trail;

  constructor(config: RootConfig, context: DeploymentContext, trail: Trail) {
    this.config = config;
    this.context = context;
    this.#trail = trail;
  }

  async start(): Promise<void> {
    this.#trail.push('start deployment');
    for (const model of this.config.models) {
      const scope = await this.context.openScope(model, { kind: 'model', name: model.name, facts: { name: model.name } });
      this.models.push(scope);
      await scope.start();
      for (const worker of model.workers) {
        for (let index = 0; index < worker.replicas; index++) {
          const inner = await scope.openScope(worker, { kind: 'worker', name: `${worker.name}/${index}` });
          this.workers.push(inner);
          await inner.start();
        }
      }
    }
  }

  drain(): void {
    this.#trail.push('drain deployment');
  }

  close(): void {
    this.#trail.push('close deployment');
  }

  summary(): ReturnType<Deployment['summary']> {
    return { url: undefined, adminUrl: undefined, models: [] };
  }
}

export function testRoot(trail: Trail = []): PluginDescriptor<'deployment', RootConfig> {
  return definePlugin<'deployment', RootConfig>({
    kind: 'deployment',
    contract: 'v1',
    name: 'test',
    description: 'A small deployment.',
    configSchema: {
      type: 'object',
      additionalProperties: false,
      required: ['models'],
      properties: {
        discovery: { 'x-kind': 'discovery', default: { use: 'memory' }, description: 'Who is alive.' },
        transports: { type: 'array', items: { 'x-kind': 'transfer-transport' }, default: [], description: 'Ways to move bytes, best first.' },
        models: {
          type: 'array',
          minItems: 1,
          description: 'What is served.',
          items: {
            type: 'object',
            'x-scope': 'model',
            additionalProperties: false,
            required: ['name', 'workers'],
            properties: {
              name: { type: 'string', description: 'Unique name.' },
              blockSize: { type: 'integer', minimum: 1, default: 16, description: 'Tokens per block.' },
              router: { 'x-kind': 'router-policy', default: { use: 'fake' }, description: 'Chooses a worker.' },
              workers: {
                type: 'array',
                description: 'Pools of workers.',
                items: {
                  type: 'object',
                  'x-scope': 'worker',
                  additionalProperties: false,
                  required: ['name', 'engine'],
                  properties: {
                    name: { type: 'string', description: 'Name of the pool.' },
                    role: { enum: ['first', 'second', 'both'], default: 'both', description: 'What it does.' },
                    replicas: { type: 'integer', minimum: 0, default: 1, description: 'How many.' },
                    engine: { 'x-kind': 'engine-backend', description: 'What computes.' },
                  },
                },
              },
            },
          },
        },
      },
    },
    check: (config, report) => {
      const seen = new Set<string>();
      config.models.forEach((model, index) => {
        if (seen.has(model.name)) report({ path: ['models', index, 'name'], message: `two models are named "${model.name}"`, hint: 'rename one', code: 'CONFIG_DUPLICATE_NAME' });
        seen.add(model.name);
      });
    },
    create: (config, context) => new TestDeployment(config, context, trail),
  });
}

/** A plug-in that only leaves a trail; `behave` may fail or wait in a step. */
export function tracer(
  kind: PluginDescriptor['kind'],
  name: string,
  trail: Trail,
  options: {
    readonly requires?: PluginDescriptor['requires'];
    readonly schema?: Readonly<Record<string, unknown>>;
    readonly behave?: (step: string, label: string) => void | Promise<void>;
    readonly onCreate?: (config: unknown, context: Parameters<PluginDescriptor['create']>[1]) => void;
  } = {},
): PluginDescriptor {
  return definePlugin({
    kind,
    contract: 'v1' as never,
    name,
    description: `Fake ${kind}.`,
    configSchema: { type: 'object', additionalProperties: false, properties: options.schema ?? {} },
    ...(options.requires === undefined ? {} : { requires: options.requires }),
    create: (config: unknown, context) => {
      const scope = context.scopes[0];
      const label = `${name}${scope === undefined ? '' : `@${scope.name}`}`;
      const step = (what: string) => (): void | Promise<void> => {
        trail.push(`${what} ${label}`);
        return options.behave?.(what, label);
      };
      trail.push(`create ${label}`);
      options.onCreate?.(config, context as never);
      const failed = options.behave?.('create', label);
      const instance = { label, config, context, start: step('start'), drain: step('drain'), close: step('close') };
      return (failed === undefined ? instance : failed.then(() => instance)) as never;
    },
  }) as PluginDescriptor;
}
