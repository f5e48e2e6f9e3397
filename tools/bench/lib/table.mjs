const number = (value) => (value === undefined ? '' : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en-US') : Number(value.toPrecision(3)).toString());

/** Rows `{name, value, unit, peer?, limit?, target?}`: peer = another program in the same run, limit = the least possible, target = what we want. */
export function printTable(rows) {
  const head = ['name', 'value', 'unit', 'peer', 'limit', 'target'];
  const cells = rows.map((row) => [row.name, number(row.value), row.unit, number(row.peer), number(row.limit), number(row.target)]);
  const widths = head.map((title, c) => Math.max(title.length, ...cells.map((row) => row[c].length)));
  const line = (row) => row.map((cell, c) => (c === 0 || c === 2 ? cell.padEnd(widths[c]) : cell.padStart(widths[c]))).join('  ').trimEnd();
  console.log(`\n${line(head)}\n${widths.map((width) => '-'.repeat(width)).join('  ')}`);
  for (const row of cells) console.log(line(row));
}
