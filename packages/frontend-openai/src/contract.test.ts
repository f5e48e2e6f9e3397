import { describe, it } from 'vitest';
import { frontendContract } from '@armature/contracts/testing/frontend';
import { httpServerContract } from '@armature/contracts/testing/http-server';
import { DEFAULTS } from './serving.test.fixture.ts';
import { fakeContext } from './fake-context.test.fixture.ts';
import { NodeHttpServer, openai } from './index.ts';

httpServerContract({ runner: { describe, it }, create: () => new NodeHttpServer() });
frontendContract({ runner: { describe, it }, create: () => openai.create(DEFAULTS, fakeContext({ 'http-server': new NodeHttpServer() })) });
