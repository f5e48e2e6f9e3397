import { describe, it } from 'vitest';
import { httpServerContract } from '@armature/contracts/testing/http-server';
import { NodeHttpServer } from './node-server.ts';

httpServerContract({ runner: { describe, it }, create: () => new NodeHttpServer() });
