// Entry of the model thread: keeps steps off the event loop. Messages are handled in order, one at a time.
import { parentPort, workerData } from 'node:worker_threads';
import { ArmatureError } from '@armature/contracts';
import { StepThread } from './step-thread.ts';
import { STEPPED } from './thread-protocol.ts';
import type { FromThread, ThreadData, ToThread } from './thread-protocol.ts';

const port = parentPort;
if (port !== null) serve(port, workerData as ThreadData);

function serve(out: NonNullable<typeof parentPort>, data: ThreadData): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a MessagePort has no origins
  const post = (message: FromThread): void => out.postMessage(message);
  let thread: StepThread;
  try {
    thread = new StepThread(data);
  } catch (error) {
    post({ type: 'failed', error: ArmatureError.from(error, 'ENGINE_START_FAILED').toData() });
    return;
  }
  out.on('message', (message: ToThread) => {
    if (message.type === 'step') {
      try {
        thread.step();
        post(STEPPED);
      } catch (error) {
        post({ type: 'stepped', error: ArmatureError.from(error, 'ENGINE_STEP_FAILED').toData() });
      }
    } else if (message.type === 'open') thread.open(message.setup);
    else if (message.type === 'close') thread.close(message.slot);
    else out.close(); // nothing keeps the thread alive any more
  });
  post({ type: 'loaded', fingerprint: thread.fingerprint });
}
