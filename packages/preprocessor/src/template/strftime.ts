const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];

/** The codes that chat templates use; others stay as they are. UTC, so that all frontends of a deployment render alike. */
export function strftime(format: string, wallMs: number): string {
  const date = new Date(wallMs);
  const two = (value: number): string => String(value).padStart(2, '0');
  return format.replace(/%([a-zA-Z%])/g, (whole, code: string) => {
    switch (code) {
      case 'Y': return String(date.getUTCFullYear());
      case 'y': return two(date.getUTCFullYear() % 100);
      case 'm': return two(date.getUTCMonth() + 1);
      case 'B': return MONTHS[date.getUTCMonth()];
      case 'b': return MONTHS[date.getUTCMonth()].slice(0, 3);
      case 'd': return two(date.getUTCDate());
      case 'A': return DAYS[date.getUTCDay()];
      case 'a': return DAYS[date.getUTCDay()].slice(0, 3);
      case 'H': return two(date.getUTCHours());
      case 'I': return two(date.getUTCHours() % 12 || 12);
      case 'p': return date.getUTCHours() < 12 ? 'AM' : 'PM';
      case 'M': return two(date.getUTCMinutes());
      case 'S': return two(date.getUTCSeconds());
      case 'F': return date.toISOString().slice(0, 10);
      case '%': return '%';
      default: return whole;
    }
  });
}
