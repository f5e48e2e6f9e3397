export { ArmatureError } from './errors.ts';
export type { ArmatureErrorOptions, ErrorData, LoadRefusal } from './errors.ts';
export { definePlugin, isPlugin } from './plugin.ts';
export type {
  ConfigReport,
  JsonSchema,
  Lifecycle,
  PluginDescriptor,
  PluginInstance,
  PluginKind,
  PluginKinds,
  PluginRequirement,
} from './plugin.ts';
export type {
  AdminHandler,
  AdminRequest,
  AdminRoutes,
  Clock,
  Codec,
  Counter,
  DeploymentContext,
  Family,
  Gauge,
  Health,
  HealthState,
  Histogram,
  LogFields,
  Logger,
  Metrics,
  MetricSpec,
  PlainData,
  PluginContext,
  PluginSlot,
  Random,
  Scope,
  ScopeOptions,
  Timer,
} from './context.ts';
export type { Deployment, DeploymentSummary } from './deployment.ts';
export type { DisaggregationInput, DisaggregationPolicy } from './disaggregation-policy.ts';
export type { Discovery, DiscoveryEntry, DiscoveryWatcher, Registration } from './discovery.ts';
export type {
  EngineAbilities,
  EngineBackend,
  EngineHandle,
  EngineInfo,
  EngineLoad,
  EngineRequest,
  EngineSink,
  KvArena,
  KvArenaRank,
  KvDimension,
  KvFace,
  KvLayout,
  KvLease,
  KvReservation,
  KvSegment,
  KvSource,
  PrefillHandover,
} from './engine-backend.ts';
export type { EventListener, EventPlane } from './event-plane.ts';
export type { Frontend } from './frontend.ts';
export type { HttpExchange, HttpHandler, HttpHeaders, HttpListener, HttpListenOptions, HttpServer } from './http-server.ts';
export { FinishCode } from './inference.ts';
export type {
  InferenceEnd,
  InferenceHandle,
  InferenceRequest,
  ResponseFormat,
  RoutingOverrides,
  SamplingParams,
  StopParams,
  TokenBatch,
  TokenSink,
  Usage,
} from './inference.ts';
export { kvEventSubject } from './kv-events.ts';
export type { KvEvent, KvTier } from './kv-events.ts';
export type { KvEvictionOrder, KvOffloadRule, KvPolicy } from './kv-policy.ts';
export type { KvBlockFormat, KvConnector, KvHostAccess, KvHostPin, KvHostPull, KvHostReservation, KvLender } from './kv-host.ts';
export { isMemoryTier, KvBlockStatus } from './kv-tier.ts';
export type {
  KvBlockBatch,
  KvBlockMover,
  KvMemory,
  KvMemoryLayout,
  KvMemoryTier,
  KvOperation,
  KvRecordVisitor,
  KvRemovalReason,
  KvStoreTier,
  KvTierBackend,
  KvTierHost,
  KvTierStats,
  KvTierStore,
} from './kv-tier.ts';
export { modelFacts } from './model.ts';
export type { ModelDirectory, ModelFacts, ModelHandle } from './model.ts';
export type {
  ChatInput,
  ChatMessage,
  EncodedPrompt,
  ModelCard,
  Preprocessor,
  TextOutput,
  TextOutputOptions,
} from './preprocessor.ts';
export { latencyBucketBoundsMs } from './planner.ts';
export type {
  EngineReport,
  Forecast,
  Interval,
  Objective,
  PassColumns,
  PlannedCandidate,
  PlannedOutcome,
  PlannedPool,
  PlannedState,
  PlannerInput,
  PlannerObservation,
  PlannerPolicy,
  PlannerProposal,
  PoolObservation,
  ScalingConnector,
  ScalingOrder,
  ScalingStatus,
  TrafficObservation,
  RequestSamples,
  TrafficReport,
  WorkerCapacity,
} from './planner.ts';
export type { PlaneMessage, PlaneStream, RequestPlane, ServedEndpoint, StreamHandler, StreamOpen, StreamSink } from './request-plane.ts';
export type { RouterFilter, RouterPicker, RouterScorer } from './router-pieces.ts';
export type { Candidates, KvFollower, LoadFollower, RouterPolicy, RoutingHop, RoutingRequest, TaintPreference } from './router-policy.ts';
export type { SelectedWorker, Selection, SelectionQuery, Selector, WorkerOverlap } from './selection.ts';
export { childTraceparent, newTraceparent, parseTraceparent } from './trace.ts';
export type { TraceContext } from './trace.ts';
export { TransferStatus } from './transfer-transport.ts';
export type {
  DescriptorColumns,
  MemoryKind,
  PeerSegment,
  SegmentLocation,
  SharedMapping,
  TransferPeer,
  TransferPlan,
  TransferSegment,
  TransferTransport,
  TransportEndpoint,
  TransportHost,
  TransportMetadata,
} from './transfer-transport.ts';
export type { WorkerRecord, WorkerRole } from './worker.ts';
