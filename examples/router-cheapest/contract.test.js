import { describe, it } from 'node:test';
import { routerScorerContract } from '@armature/contracts/testing/router-pieces';
import plugin from './index.js';

routerScorerContract({ runner: { describe, it }, create: () => plugin.create({}, undefined) });
