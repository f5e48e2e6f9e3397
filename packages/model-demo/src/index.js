import { fileURLToPath } from 'node:url';

// Plain JavaScript with a hand-written declaration beside it, so that the package needs no build step.
export const modelPath = fileURLToPath(new URL('../model', import.meta.url));
