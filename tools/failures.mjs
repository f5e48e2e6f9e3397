// `node tools/failures.mjs NAME RESULTS`: the failed tests of a vitest JSON file, each with the start of its message.
import { existsSync, readFileSync } from 'node:fs';

const [name, results] = process.argv.slice(2);
const MESSAGE_LINES = 6;

if (!existsSync(results)) {
  console.log(`failed: ${name}: ended without ${results}`);
} else {
  const { testResults } = JSON.parse(readFileSync(results, 'utf8'));
  let told = 0;
  for (const file of testResults) {
    const tests = file.assertionResults.filter((test) => test.status === 'failed');
    for (const test of tests) tell(file.name, test.fullName, test.failureMessages.join('\n'));
    if (tests.length === 0 && file.status === 'failed') tell(file.name, '(the file itself)', file.message ?? '');
  }
  if (told === 0) console.log(`failed: ${name}: the run ended with an error outside its tests`);

  function tell(file, test, message) {
    told++;
    console.log(`failed: ${name}: ${file.replace(`${process.cwd()}/`, '')} > ${test}`);
    for (const line of message.split('\n').slice(0, MESSAGE_LINES)) console.log(`    ${line}`);
  }
}
