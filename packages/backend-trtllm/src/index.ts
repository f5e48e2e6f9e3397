export { decodeCompletion, encodeCompletion } from './completion.ts';
export type { CompletionRequestBody, CompletionResult } from './completion.ts';
export { contextParams, decodeParams, encodeParams, generationParams } from './disaggregated-params.ts';
export type { DisaggregatedParams, RequestType } from './disaggregated-params.ts';
