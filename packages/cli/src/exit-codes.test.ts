import { readFileSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { ExitCode, exitCodeOf } from './exit-codes.ts';

const read = (name: string): string => readFileSync(new URL(`../../../docs/reference/${name}`, import.meta.url), 'utf8');
const exitOf = (code: string): number => exitCodeOf(new ArmatureError(code, 'x'));

describe('exit codes', () => {
  it('are those of the document, for every code it names', () => {
    const rows = [...read('exit-codes.md').matchAll(/^\| (\d+) \|[^|]*\|(.*)\|$/gm)].map(([, exit, codes]) => ({ exit: Number(exit), codes: [...(codes ?? '').matchAll(/`([A-Z_*]+)`/g)].map(([, code]) => code as string) }));
    const named = rows.flatMap(({ exit, codes }) => codes.map((code) => [code, exit] as const));
    expect(named.length).toBeGreaterThan(15);
    expect(named.map(([code]) => [code, exitOf(code.replace('*', code.startsWith('*') ? 'PLANE' : 'SOMETHING'))])).toEqual(named.map(([code, exit]) => [code, exit]));
  });

  it('every order that the cluster refuses or does not answer is told from a defect of ours', () => {
    const control = [...read('errors.md').matchAll(/^\| `(CONTROL_[A-Z_]+)`/gm)].map(([, code]) => code as string);
    expect(control).toContain('CONTROL_ROLE_MINIMUM');
    expect(control.map(exitOf)).toEqual(control.map(() => ExitCode.Unreachable));
  });

  it("an engine's server that refuses is not a defect of ours, whatever its code", () => {
    const engine = [...read('errors.md').matchAll(/^\| `((?:VLLM|TRTLLM)_[A-Z_]+)`/gm)].map(([, code]) => code as string);
    expect(engine).toContain('VLLM_START_FAILED');
    expect(engine.filter((code) => exitOf(code) === ExitCode.Internal)).toEqual([]);
  });

  it('a port in use is one, on the planes as well; anything else is ours', () => {
    expect([exitOf('PLANE_LISTEN_FAILED'), exitOf('PLANE_DISCONNECTED'), exitOf('KVBM_X'), exitCodeOf(new Error('x'))]).toEqual([6, 7, 1, 1]);
  });
});
