import { createInterface } from 'node:readline';
import { SeededRandom } from '@armature/core';
import { GroundServer } from '@armature/planner';

/** `armature planner ground`: answers each line with a line until its input ends. Seeds come with the requests. */
export async function plannerGround(): Promise<void> {
  const server = new GroundServer(new SeededRandom(1));
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() === '') continue;
    // An agent that does not read is waited for: nothing piles up here.
    if (!process.stdout.write(`${server.answer(line)}\n`)) await new Promise<void>((resolve) => process.stdout.once('drain', () => resolve()));
  }
}
