export function openApiDocument(): string {
  return '{}';
}
