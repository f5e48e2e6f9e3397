// `prepack` of every package: npm packs a LICENSE only from the package's own folder. The copy is ignored by git.
import { copyFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

copyFileSync(fileURLToPath(new URL('../LICENSE', import.meta.url)), 'LICENSE');
