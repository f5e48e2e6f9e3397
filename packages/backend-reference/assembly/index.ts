// Kernels of the reference engine. Addresses and strides are in bytes of the one shared memory that the host lays out; nothing is
// allocated here. Arithmetic contract (bit for bit equal to src/reference/ops.ts): f32, one rounding per operation, no fused
// operations, and for each result one order of accumulation that does not depend on tiles, chunks or batches.
export { configure, attention } from './attention';
export { addBias, embed, rmsnorm, siluMultiply } from './elementwise';
export { matmul } from './matmul';
export { ropeStore } from './rope';
export { argmax, exponentials, sumExponentials } from './vocabulary';
