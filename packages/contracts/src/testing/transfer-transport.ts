import type { TransferTransport } from '../transfer-transport.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';
import { dataRules } from './transfer-data-rules.ts';
import { failureRules } from './transfer-failure-rules.ts';
import { Pair } from './transfer-hosts.ts';
import type { AllocateMemory } from './transfer-hosts.ts';

export { FakeTransferHost, suiteMemoryBytes } from './transfer-hosts.ts';
export type { AllocateMemory, SuiteAccess, SuiteMemory, SuiteSegment, SuiteSide } from './transfer-hosts.ts';

export interface TransferTransportContractOptions {
  readonly runner: SuiteRunner;
  /** A new transport, independent of all others, with default config. Two agents of one instance meet. */
  create(): TransferTransport | Promise<TransferTransport>;
  /**
   * Memory that the transport can move, for both sides. Default: ArrayBuffer and SharedArrayBuffer. Asked for `lengthBytes` that include
   * guards around `dram` segments; released after the endpoints are closed.
   */
  readonly allocate?: AllocateMemory;
  /** Opens and closes of the handle rule; lower it only where one open costs milliseconds. Default 1,000. */
  readonly opens?: number;
  /** First seed of the random rules; failures print theirs. */
  readonly seed?: number;
  readonly skip?: readonly SkippedRule[];
}

/** Runs the rules of `transfer-transport` v1. */
export function transferTransportContract(options: TransferTransportContractOptions): void {
  registerRules(options.runner, 'transfer-transport contract', transferTransportRules(options), options.skip);
}

/** The rules, for runners and for mutant tests. */
export function transferTransportRules(options: Omit<TransferTransportContractOptions, 'runner'>): ContractRule[] {
  const open = async (): Promise<Pair> => new Pair(await options.create(), options.allocate).open();
  const withPair =
    (body: (it: Pair) => Promise<void>): (() => Promise<void>) =>
    async () => {
      const it = await open();
      let failed = true;
      try {
        await body(it);
        failed = false;
      } finally {
        if (failed) await it.close().catch(() => undefined);
      }
      await it.close();
    };
  const suite = { create: () => options.create(), open, withPair, seed: options.seed ?? 20_261, opens: options.opens ?? 1000 };
  return [...dataRules(suite), ...failureRules(suite)];
}
