export { tcpRequestPlane } from './plugin.ts';
export { TcpRequestPlane } from './tcp-request-plane.ts';
export type { TcpRequestPlaneOptions } from './tcp-request-plane.ts';
export { MemoryBridge } from './bridge.ts';
