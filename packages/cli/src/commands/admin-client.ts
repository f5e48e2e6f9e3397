import { ArmatureError } from '@armature/contracts';

/** One GET of the admin listener. Throws `ADMIN_UNREACHABLE`; undefined when it has nothing by this name. */
export async function adminGet(adminUrl: string, path: string): Promise<string | undefined> {
  let response: Response;
  try {
    response = await fetch(new URL(path, adminUrl));
  } catch (error) {
    throw new ArmatureError('ADMIN_UNREACHABLE', `no admin listener answers at ${adminUrl}`, { cause: error, hint: 'name it with --admin URL; it is the admin section of the configuration' });
  }
  if (response.status === 404) return undefined;
  if (!response.ok) throw new ArmatureError('CHAT_REFUSED', `${adminUrl}${path} answered ${response.status}`, { hint: (await response.text()).slice(0, 300) });
  return response.text();
}
