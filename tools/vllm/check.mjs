// What every piece of `npm run test:vllm` says of itself.

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Checks {
  passed = 0;
  failed = [];
  #piece = '';

  begin(piece) {
    this.#piece = piece;
    console.log(`== ${piece}`);
  }

  check(what, isRight, found) {
    console.log(`${isRight ? 'ok    ' : 'FAILED'} ${what}${found === undefined ? '' : `: ${typeof found === 'string' ? found : JSON.stringify(found)}`}`);
    if (isRight) this.passed++;
    else this.failed.push(`${this.#piece}: ${what}`);
  }

  /** Numbers that are reported, not judged. */
  say(text) {
    console.log(`       ${text}`);
  }
}

/** Waits until `isSo` returns something true, and returns that. */
export async function until(what, isSo, timeoutMs = 60_000) {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await isSo();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`never within ${timeoutMs / 1000} s: ${what}`);
    await pause(50);
  }
}

export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;
}

/** Sum of a Prometheus counter over the label sets that contain every one of `labels`. */
export function sumOf(text, name, labels = []) {
  return text
    .split('\n')
    .filter((line) => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && labels.every((label) => line.includes(label)))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}
