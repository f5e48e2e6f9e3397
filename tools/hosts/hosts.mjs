// Hosts made of network namespaces, on one switch that can delay, lose and cut. Needs root and iproute2.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const SUBNET = '10.77.0';
/** Few large frames: the switch is a script. */
const MTU = 9000;

const ip = (...words) => execFileSync('ip', words, { stdio: ['ignore', 'pipe', 'pipe'] });

/** Why hosts cannot be made here, or undefined. */
export function hostsMissing() {
  if (process.platform !== 'linux') return 'network namespaces are a thing of Linux';
  if (process.getuid() !== 0) return 'making network namespaces needs root';
  try {
    ip('netns', 'add', 'armature-probe');
    ip('netns', 'del', 'armature-probe');
    execFileSync('python3', ['-c', 'import socket; socket.AF_PACKET'], { stdio: 'ignore' });
  } catch (error) {
    return String(error.stderr ?? error.message).trim() || 'ip netns does not work here';
  }
  return undefined;
}

export class Host {
  constructor(name, namespace, address) {
    this.name = name;
    this.namespace = namespace;
    this.address = address;
    this.processes = new Set();
  }

  /** A process on this host. */
  spawn(command, args, options = {}) {
    const child = spawn('ip', ['netns', 'exec', this.namespace, command, ...args], { stdio: ['ignore', 'pipe', 'pipe'], detached: true, ...options });
    this.processes.add(child);
    child.once('exit', () => this.processes.delete(child));
    child.output = '';
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (child.output += chunk));
    return child;
  }

  /** Runs to the end; throws when it fails. */
  run(command, args, options = {}) {
    return execFileSync('ip', ['netns', 'exec', this.namespace, command, ...args], { encoding: 'utf8', ...options });
  }
}

/** Hosts on one switch. Close it in a `finally`: namespaces outlive the process. */
export class Network {
  static async open(names) {
    const network = new Network();
    try {
      names.forEach((name, i) => network.#addHost(name, i + 1));
      await network.#startSwitch();
    } catch (error) {
      await network.close();
      throw error;
    }
    return network;
  }

  hosts = new Map();
  #id = process.pid.toString(36);
  #switch = undefined;
  #answers = undefined;

  host(name) {
    return this.hosts.get(name);
  }

  /** One order of switch.py; resolves with what holds then. */
  async order(order) {
    const answer = once(this.#answers, 'line');
    this.#switch.stdin.write(`${JSON.stringify(order)}\n`);
    const [line] = await answer;
    return JSON.parse(line);
  }

  async close() {
    for (const host of this.hosts.values()) {
      for (const child of host.processes) {
        try {
          process.kill(-child.pid, 'SIGKILL');
        } catch {
          // gone already
        }
      }
    }
    this.#switch?.kill('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const host of this.hosts.values()) {
      try {
        ip('netns', 'del', host.namespace);
      } catch {
        // never made
      }
    }
  }

  #addHost(name, number) {
    const namespace = `arm-${this.#id}-${name}`;
    const outside = `av${this.#id}${number}`.slice(0, 15);
    const address = `${SUBNET}.${number}`;
    this.hosts.set(name, Object.assign(new Host(name, namespace, address), { outside }));
    ip('netns', 'add', namespace);
    ip('link', 'add', outside, 'mtu', String(MTU), 'type', 'veth', 'peer', 'name', 'eth0', 'mtu', String(MTU), 'netns', namespace);
    ip('link', 'set', outside, 'up');
    ip('-n', namespace, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    ip('-n', namespace, 'link', 'set', 'eth0', 'up');
    ip('-n', namespace, 'link', 'set', 'lo', 'up');
    ip('netns', 'exec', namespace, 'python3', `${here}checksums_off.py`, 'eth0');
  }

  async #startSwitch() {
    const ports = [...this.hosts.values()].map(({ name, outside }) => `${name}=${outside}`);
    this.#switch = spawn('python3', [`${here}switch.py`, ...ports], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#answers = createInterface({ input: this.#switch.stdout });
    const [line] = await Promise.race([once(this.#answers, 'line'), once(this.#switch, 'exit').then(() => ['the switch ended'])]);
    if (line !== 'switching') throw new Error(line);
  }
}
