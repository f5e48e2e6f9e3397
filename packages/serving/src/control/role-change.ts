import { ArmatureError } from '@armature/contracts';
import type { EngineAbilities, PlaneMessage, PlaneStream, StreamSink, WorkerRole } from '@armature/contracts';

/** What a change of role needs of a worker. */
export interface RoleHost {
  readonly instanceId: string;
  readonly role: WorkerRole;
  readonly abilities: EngineAbilities;
  /** Legs that run now. */
  readonly legs: number;
  /** Leaves discovery and takes no more legs; the running ones get `deadlineMs`, then are told to move on. Resolves with how many were. */
  drain(deadlineMs: number): Promise<number>;
  /** Takes legs and is in discovery again, as another life. Resolves with its instance id. */
  rejoin(role: WorkerRole): Promise<string>;
  changed(role: WorkerRole, outcome: 'done' | 'failed'): void;
}

export interface RoleChange {
  readonly role: WorkerRole;
  /** For running legs to end by themselves. */
  readonly deadlineMs: number;
}

/** Throws when the worker cannot take the role while it runs. */
export function checkRole(host: RoleHost, role: WorkerRole): void {
  const { abilities, instanceId } = host;
  if (!abilities.roles.includes(role)) {
    throw new ArmatureError('SERVING_ROLE_UNSUPPORTED', `the engine of worker ${instanceId} cannot be a ${role} worker`, { hint: `it can be: ${abilities.roles.join(', ')}` });
  }
  if (abilities.roleChange === 'restart') {
    throw new ArmatureError('SERVING_ROLE_NEEDS_RESTART', `the engine of worker ${instanceId} takes another role only when it starts`, {
      hint: `start its process again with role: ${role} in its pool`,
    });
  }
  if (abilities.roleChange === 'none') {
    throw new ArmatureError('SERVING_ROLE_FIXED', `the engine of worker ${instanceId} cannot change its role`, { hint: `run a ${role} worker beside it, then remove this one` });
  }
}

/**
 * Answers `worker.role`: `draining`, then `done` with the new instance id, or the stream's error. A caller that leaves changes nothing:
 * half a change would be a worker that serves nobody.
 */
export function answerRoleChange(host: RoleHost, { role, deadlineMs }: RoleChange, stream: PlaneStream): StreamSink {
  const done = (instanceId: string, moved: number): void => {
    stream.send({ type: 'done', instanceId, role, moved });
    stream.close();
  };
  if (host.role === role) done(host.instanceId, 0);
  else {
    checkRole(host, role);
    stream.send({ type: 'draining', instanceId: host.instanceId, legs: host.legs });
    change(host, role, deadlineMs).then(
      ({ instanceId, moved }) => {
        host.changed(role, 'done');
        done(instanceId, moved);
      },
      (error: unknown) => {
        host.changed(role, 'failed');
        stream.close(ArmatureError.from(error).toData());
      },
    );
  }
  return { message: () => undefined, closed: () => undefined };
}

async function change(host: RoleHost, role: WorkerRole, deadlineMs: number): Promise<{ readonly instanceId: string; readonly moved: number }> {
  const moved = await host.drain(deadlineMs);
  return { instanceId: await host.rejoin(role), moved };
}

/** Throws `SERVING_MESSAGE_INVALID`. */
export function parseRoleChange(message: PlaneMessage): RoleChange {
  const { role, deadlineMs } = message;
  if ((role !== 'prefill' && role !== 'decode' && role !== 'both') || typeof deadlineMs !== 'number' || !(deadlineMs >= 0)) {
    throw new ArmatureError('SERVING_MESSAGE_INVALID', 'a change of role names a role and a deadlineMs', { hint: 'the caller runs another version' });
  }
  return { role, deadlineMs };
}
