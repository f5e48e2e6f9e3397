import { KvPolicy, kvPolicyDefaults } from '@armature/router-kv';
const make = (more) => (context) => new KvPolicy({ ...kvPolicyDefaults, ...more }, context);
export const policies = { t15: make({}), t10: make({ shareTolerance: 0.1 }), t07: make({ shareTolerance: 0.07 }) };
