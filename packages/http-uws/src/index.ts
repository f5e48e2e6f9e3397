import { uws } from './plugin.ts';

export { uws };
export { UwsHttpServer } from './uws-server.ts';
export { available, INSTALL_HINT } from './uws-module.ts';
export type { ImportUws, UwsAvailability, UwsModule } from './uws-module.ts';

/** Plug-ins of this package, for the loader. */
export default [uws];
