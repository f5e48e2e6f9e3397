export { uws } from './plugin.ts';
export { UwsHttpServer } from './uws-server.ts';
export { available, INSTALL_HINT } from './uws-module.ts';
export type { ImportUws, UwsAvailability, UwsModule } from './uws-module.ts';
