export { Flock, libc, libcMissing } from './libc.ts';
export type { Libc } from './libc.ts';
export { Mapping, mapPeerMemory } from './mapping.ts';
