// What the pieces share: the install, the checks, and servers that are started once and used by several pieces.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Armature } from './armature.mjs';
import { freePort } from './processes.mjs';
import { MODEL_FOLDER, NIXL_CONNECTOR, VllmServer } from './server.mjs';

export class Bench {
  #pair;
  #open = new Set();

  constructor({ install, checks, logs }) {
    this.install = install;
    this.checks = checks;
    this.model = JSON.stringify(MODEL_FOLDER);
    this.#isKept = logs !== undefined;
    this.folder = logs ?? mkdtempSync(join(tmpdir(), 'armature-vllm-'));
  }

  #isKept;

  /** Two vLLM servers, alike: with the NixlConnector in both roles and KV events. */
  pair() {
    this.#pair ??= this.#startPair();
    return this.#pair;
  }

  async #startPair() {
    const servers = [];
    for (const name of ['one', 'two']) {
      const ports = { eventsPort: await freePort(), replayPort: await freePort() };
      servers.push(Object.assign(new VllmServer({ name, install: this.install, folder: this.folder, connector: NIXL_CONNECTOR, ...ports }), ports));
    }
    const startedMs = performance.now();
    for (const server of servers) this.#open.add(server);
    await Promise.all(servers.map((server) => server.start()));
    this.checks.say(`two vLLM ${this.install.version} servers ready after ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
    return servers;
  }

  async endPair() {
    if (this.#pair === undefined) return;
    const servers = await this.#pair.catch(() => []);
    this.#pair = undefined;
    await Promise.all(servers.map((server) => this.end(server)));
  }

  /** `armature serve` with this configuration, for the time of `use`. */
  async withArmature(yaml, options, use) {
    const armature = new Armature({ folder: this.folder, yaml });
    this.#open.add(armature);
    try {
      return await use(await armature.start(options));
    } finally {
      await this.end(armature);
    }
  }

  /** Something with stop() that must not outlive the run. */
  own(thing) {
    this.#open.add(thing);
    return thing;
  }

  async end(thing) {
    this.#open.delete(thing);
    await thing.stop();
  }

  async close() {
    await Promise.all([...this.#open].map((thing) => this.end(thing)));
    if (!this.#isKept) rmSync(this.folder, { recursive: true, force: true });
  }
}
