import { ArmatureError } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { describe, expect, it, vi } from 'vitest';
import { boot } from './boot.ts';
import type { BootOptions } from './boot.ts';
import { PinoLogger } from './leaves/logger.ts';
import { VirtualClock } from './leaves/virtual-clock.ts';
import { kindToken } from './scopes/tokens.ts';
import { testRoot, tracer } from './boot.test.fixtures.ts';
import type { TestDeployment, Trail } from './boot.test.fixtures.ts';

const quiet = new PinoLogger({ level: 'silent' });
const yaml = `
apiVersion: armature/v1
models:
  - name: demo
    workers:
      - { name: a, replicas: 2, engine: { use: fake } }
`;

function plugins(trail: Trail, behave?: (step: string, label: string) => void | Promise<void>): PluginDescriptor[] {
  const options = behave === undefined ? {} : { behave };
  return [tracer('router-policy', 'fake', trail, options), tracer('engine-backend', 'fake', trail, { ...options, requires: [{ kind: 'router-policy' }] })];
}

function start(trail: Trail, builtins: readonly PluginDescriptor[], options: Partial<BootOptions> = {}): ReturnType<typeof boot> {
  return boot({ configText: yaml, root: testRoot(trail) as never, builtins, env: {}, logger: quiet, processMetrics: false, random: 1, ...options });
}

describe('boot', () => {
  it('creates, starts, drains and closes in order, scope by scope', async () => {
    const trail: Trail = [];
    const app = await start(trail, plugins(trail));
    await app.start();
    await app.start();
    await app.close(1000);
    await app.close(1000);
    expect(trail).toEqual([
      'start deployment',
      'create fake@demo',
      'start fake@demo',
      'create fake@a/0',
      'start fake@a/0',
      'create fake@a/1',
      'start fake@a/1',
      'drain deployment',
      'close deployment',
      'drain fake@a/1',
      'close fake@a/1',
      'drain fake@a/0',
      'close fake@a/0',
      'drain fake@demo',
      'close fake@demo',
    ]);
  });

  it('orders a scope by requires, against the order of the file', async () => {
    const trail: Trail = [];
    const text = `
apiVersion: armature/v1
discovery: { use: late }
transports: [ { use: one }, { use: two } ]
models: [ { name: demo, workers: [] } ]
`;
    const app = await start(
      trail,
      [
        ...plugins(trail),
        tracer('discovery', 'late', trail, { requires: [{ kind: 'transfer-transport' }] }),
        tracer('transfer-transport', 'one', trail),
        tracer('transfer-transport', 'two', trail),
      ],
      { configText: text },
    );
    expect(trail).toEqual(['create one', 'create two', 'create late']);
    await app.close(0);
    expect(trail.slice(3)).toEqual(['close deployment', 'close late', 'close two', 'close one']);
  });

  it('closes what was started when a start fails, and reports the reason', async () => {
    const trail: Trail = [];
    const app = await start(
      trail,
      plugins(trail, (step, label) => {
        if (step === 'start' && label === 'fake@a/1') throw new ArmatureError('ENGINE_BROKEN', 'no memory');
      }),
    );
    await expect(app.start()).rejects.toMatchObject({ code: 'ENGINE_BROKEN' });
    const closed = trail.filter((entry) => entry.startsWith('close'));
    expect(closed).toEqual(['close fake@a/1', 'close deployment', 'close fake@a/0', 'close fake@demo']);
  });

  it('closes what was created when a create fails', async () => {
    const trail: Trail = [];
    const text = 'apiVersion: armature/v1\ntransports: [ { use: one }, { use: two } ]\nmodels: [ { name: demo, workers: [] } ]';
    const failing = tracer('transfer-transport', 'two', trail, {
      behave: (step) => {
        if (step === 'create') throw new Error('no such device');
      },
    });
    await expect(start(trail, [...plugins(trail), tracer('transfer-transport', 'one', trail), failing], { configText: text })).rejects.toThrow('no such device');
    expect(trail).toEqual(['create one', 'create two', 'close one']);
  });

  it('gives each step a deadline and collects every failure of close', async () => {
    const trail: Trail = [];
    const clock = new VirtualClock();
    const app = await start(
      trail,
      plugins(trail, (step, label) => {
        if (step === 'close' && label === 'fake@a/0') return new Promise(() => undefined);
        if (step === 'drain' && label === 'fake@demo') throw new Error('drain broke');
        return undefined;
      }),
      { clock, deadlines: { closeMs: 500 } },
    );
    await app.start();
    const closing = app.close(1000).catch((error: unknown) => error);
    await clock.advance(10_000);
    const error = (await closing) as AggregateError;
    expect(error).toBeInstanceOf(AggregateError);
    expect(error.errors.map((item: ArmatureError) => item.code).sort()).toEqual(['LIFECYCLE_DEADLINE_EXCEEDED', 'LIFECYCLE_STEP_FAILED']);
    expect(trail).toContain('close fake@demo');
  });

  it('closes during a start: waits for the running step, starts nothing more, closes everything', async () => {
    const trail: Trail = [];
    let release = (): void => undefined;
    const app = await start(
      trail,
      plugins(trail, (step, label) => {
        if (step !== 'start' || label !== 'fake@a/0') return undefined;
        return new Promise((resolve) => {
          release = () => {
            trail.push('released');
            resolve();
          };
        });
      }),
    );
    const starting = app.start().catch((error: unknown) => error);
    while (!trail.includes('start fake@a/0')) await new Promise((resolve) => void setImmediate(resolve));
    const closing = app.close(1000);
    setTimeout(release, 5);
    await closing;
    expect(await starting).toMatchObject({ code: expect.stringMatching(/^(APP_CLOSED|SCOPE_CLOSED)$/) });
    expect(trail.slice(trail.indexOf('released'))).not.toContain('start fake@a/1');
    expect(trail.filter((entry) => entry.startsWith('create')).length).toBe(trail.filter((entry) => entry.startsWith('close fake')).length);
  });

  it('a watchdog does not fire while the real world is awaited under virtual time', async () => {
    const trail: Trail = [];
    const clock = new VirtualClock();
    const app = await start(
      trail,
      plugins(trail, (step) => (step === 'start' ? new Promise((resolve) => void setTimeout(resolve, 5)) : undefined)),
      { clock },
    );
    await clock.runUntilSettled(app.start());
    expect(clock.nowMs()).toBe(0);
    await clock.runUntilSettled(app.close(10));
  });

  it('keeps an override inside its own scope', async () => {
    const trail: Trail = [];
    const contexts = new Map<string, { readonly find: (kind: 'router-policy') => unknown; readonly clock: unknown }>();
    const engine = tracer('engine-backend', 'fake', trail, {
      requires: [{ kind: 'router-policy' }],
      onCreate: (_config, context) => void contexts.set(context.scopes[0].name, context),
    });
    const other = { name: 'other', supports: { deterministic: true }, score: () => undefined };
    const app = await start(trail, [tracer('router-policy', 'fake', trail), engine], {
      overrides: (scope) => (scope.name === 'a/1' ? { 'router-policy': other } : {}),
      configureScope: (container, scope) => {
        if (scope.name === 'a/0') container.register(Symbol.for('armature/core/clock'), { useValue: Object.assign(new VirtualClock(), { startedAtMs: 77 }) });
      },
    });
    await app.start();
    expect(contexts.get('a/1')?.find('router-policy')).toBe(other);
    expect(contexts.get('a/0')?.find('router-policy')).toMatchObject({ label: 'fake@demo' });
    expect((app.deployment as TestDeployment).models[0].find('router-policy')).toMatchObject({ label: 'fake@demo' });
    expect(contexts.get('a/0')?.clock).toHaveProperty('startedAtMs', 77);
    expect(contexts.get('a/1')?.clock).toBe(app.clock);
    await app.close();
    expect(trail.filter((entry) => entry.includes('other'))).toEqual([]);
  });

  it('replaces an instance of a slot, and leaves its life to the giver', async () => {
    const trail: Trail = [];
    const discovery = { supports: { processes: false }, register: () => Promise.reject(new Error()), watch: () => Promise.reject(new Error()), start: () => void trail.push('started') };
    const app = await start(trail, plugins(trail), { overrides: { discovery } });
    const { context, config } = app.deployment as TestDeployment;
    expect(context.instance(config.discovery as never)).toBe(discovery);
    expect(app.containers.resolve(kindToken('discovery'))).toBe(discovery);
    await app.start();
    await app.close();
    expect(trail).not.toContain('started');
  });

  it('refuses kinds that were not declared, foreign slots, copies of nodes and double scopes', async () => {
    const trail: Trail = [];
    let context: Parameters<PluginDescriptor['create']>[1] | undefined;
    const engine = tracer('engine-backend', 'fake', trail, { onCreate: (_config, given) => void (context = given) });
    const app = await start(trail, [tracer('router-policy', 'fake', trail), engine]);
    await app.start();
    expect(() => context?.get('router-policy')).toThrow(expect.objectContaining({ code: 'PLUGIN_REQUIREMENT_UNDECLARED' }));
    const deployment = app.deployment as TestDeployment;
    expect(() => context?.instance(deployment.config.discovery as never)).toThrow(expect.objectContaining({ code: 'PLUGIN_SLOT_UNKNOWN' }));
    const [model] = deployment.config.models;
    await expect(deployment.context.openScope({ ...model }, { kind: 'model', name: 'x' })).rejects.toMatchObject({ code: 'SCOPE_NODE_UNKNOWN' });
    await expect(deployment.context.openScope(model, { kind: 'model', name: 'demo' })).rejects.toMatchObject({ code: 'SCOPE_DUPLICATE' });
    await app.close();
    await expect(deployment.models[0].start()).rejects.toMatchObject({ code: 'SCOPE_CLOSED' });
  });

  it('resolves nothing from a container once it has started: running code holds references', async () => {
    const trail: Trail = [];
    let context: Parameters<PluginDescriptor['create']>[1] | undefined;
    const engine = tracer('engine-backend', 'fake', trail, { onCreate: (_config, given) => void (context = given) });
    const app = await start(trail, [tracer('router-policy', 'fake', trail), engine]);
    await app.start();
    const prototype = Object.getPrototypeOf(app.containers) as { resolve: () => unknown; resolveAll: () => unknown };
    const calls: string[] = [];
    const spies = (['resolve', 'resolveAll'] as const).map((method) => vi.spyOn(prototype, method).mockImplementation(() => void calls.push(method)));
    context?.log.info('x');
    context?.metrics.counter({ name: 'x_total', help: 'x' }).with().inc();
    context?.clock.nowMs();
    context?.random.u32();
    context?.codec.decode(context.codec.encode({ a: 1 }));
    for (const spy of spies) spy.mockRestore();
    expect(calls).toEqual([]);
    await app.close();
  });

  it('aborts the signal of every context when the process begins to close, and forks randomness by place', async () => {
    const trail: Trail = [];
    const seen: { readonly signal: AbortSignal; readonly draw: number }[] = [];
    const engine = tracer('engine-backend', 'fake', trail, { onCreate: (_config, context) => void seen.push({ signal: context.signal, draw: context.random.u32() }) });
    const app = await start(trail, [tracer('router-policy', 'fake', trail), engine]);
    await app.start();
    expect(new Set(seen.map((entry) => entry.draw)).size).toBe(2);
    expect(seen[0].signal.aborted).toBe(false);
    await app.close();
    expect(seen.every((entry) => entry.signal.aborted)).toBe(true);
    const again: number[] = [];
    const second = await start(trail, [tracer('router-policy', 'fake', trail), tracer('engine-backend', 'fake', trail, { onCreate: (_config, context) => void again.push(context.random.u32()) })]);
    await second.start();
    await second.close();
    expect(again).toEqual(seen.map((entry) => entry.draw));
  });
});
