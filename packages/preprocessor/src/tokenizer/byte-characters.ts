/**
 * GPT-2's printable stand-ins for bytes: byte-level vocabularies spell each byte as one character, bytes that are not
 * printable in Latin-1 as U+0100 and up.
 */
export const byteToCharacter: readonly string[] = makeTable();
export const characterToByte: ReadonlyMap<string, number> = new Map(byteToCharacter.map((character, byte) => [character, byte]));

function makeTable(): string[] {
  const table: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    table.push(String.fromCharCode(printable ? byte : next++));
  }
  return table;
}
