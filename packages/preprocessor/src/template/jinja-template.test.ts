import { Template } from '@huggingface/jinja';
import { expect, test } from 'vitest';
import { TestRandom } from '../tokenizer/random-text.test.helper.ts';
import { JinjaTemplate } from './jinja-template.ts';

/** Chat templates in the manner of well-known models: every construct that they use. */
const templates: Record<string, string> = {
  demo: "<|bos|>{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] | trim }}<|end|>{% elif m['role'] == 'system' %}<|system|> {{ m['content'] | trim }}<|end|>{% else %}<|user|> {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
  chatml: "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
  llama3: "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
  'llama3.1': `{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- tool_call.arguments | tojson }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
`,
  qwen3: `{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}`,
  mistral: "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
  llama2: "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
  gemma: "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
  zephyr: "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
  odd: "{% set a = 'x' if add_generation_prompt %}{{ a }}{{ messages | length ~ '/' ~ loop }}{% for m in messages %}{{ loop.revindex }}{{ loop.nextitem.role }}{{ m.get('name', 'nobody') }}{{ m['name'] is defined }}{% for w in m.content.split(' ') %}{{ w | upper if loop.index0 < 2 else w | lower }}{% else %}none{% endfor %}{{ m.missing.deeper }}{{ -1 + 3 * 2 }}{% endfor %}",
  macro: "{% macro say(x) %}<{{ x }}>{% endmacro %}{% for m in messages if m.role == 'user' %}{{ say(m.content) }}{% endfor %}",
};
const now = (): string => '23 Nov 2026';
const globals = { bos_token: '<s>', eos_token: '</s>', strftime_now: now };

function randomInput(random: TestRandom): Record<string, unknown> {
  const content = (): string => random.pick(['', 'Hello', '  spaced out \n', '<think>\nhm\n</think>\n\nYes', 'a b  c', '<tool_response>1</tool_response>', 'ünï 😀', "it's {{ x }}"]);
  const messages = Array.from({ length: random.below(6) }, (_, i) => {
    const role = random.below(3) === 0 ? random.pick(['system', 'tool', 'user', 'assistant']) : i % 2 === 0 ? 'user' : 'assistant';
    const call = { function: { name: 'add', arguments: random.pick<unknown>([{ a: 1, b: [true, null, 1.5] }, '{"a": 1}']) } };
    return {
      role,
      content: random.below(12) === 0 ? random.pick<unknown>([null, [{ type: 'text', text: 'part' }], 7]) : content(),
      ...(random.below(8) === 0 ? { name: 'bob' } : {}),
      ...(role === 'assistant' && random.below(4) === 0 ? { tool_calls: random.below(3) === 0 ? [call, call] : [call] } : {}),
    };
  });
  return {
    messages,
    add_generation_prompt: random.below(2) === 0,
    ...(random.below(5) === 0 ? { tools: [{ type: 'function', function: { name: 'add' } }] } : {}),
    ...(random.below(4) === 0 ? { enable_thinking: random.below(2) === 0 } : {}),
    ...(random.below(10) === 0 ? { bos_token: 7, date_string: 'today' } : {}),
  };
}

function outcome(render: () => string): string {
  try {
    return `text ${render()}`;
  } catch (error) {
    return `error ${(error as Error).message}`;
  }
}

for (const [name, source] of Object.entries(templates)) {
  test(`output and errors equal the library's: ${name}`, () => {
    const seed = 77;
    console.log(`jinja-template.test ${name} seed ${seed}`);
    const random = new TestRandom(seed);
    const own = new JinjaTemplate(source, globals);
    const library = new Template(source.replaceAll('strftime_now("%d %b %Y")', '"23 Nov 2026"'));
    for (let i = 0; i < 2000; i++) {
      const input = randomInput(random);
      const { strftime_now: _, ...constants } = globals;
      const expected = outcome(() => library.render({ ...constants, ...input }));
      expect(outcome(() => own.render(input)), `${name} seed ${seed} input ${i} ${JSON.stringify(input)}`).toBe(expected);
    }
    // Macros and loops with a condition are always interpreted, the rest nearly never.
    if (name === 'macro' || name === 'odd') expect(own.compiled).toBeLessThan(1000);
    else expect(own.compiled).toBeGreaterThan(900);
  });
}

test('a plain conversation is rendered by compiled code alone, for every well-known template', () => {
  for (const [name, source] of Object.entries(templates)) {
    if (name === 'macro' || name === 'odd') continue;
    const template = new JinjaTemplate(source, globals);
    template.render({ messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello' }, { role: 'user', content: 'Bye' }], add_generation_prompt: true });
    expect([name, template.compiled, template.interpreted]).toEqual([name, 1, 0]);
  }
});

test('a variable of the request does not reach the globals of the next one', () => {
  const template = new JinjaTemplate('{{ bos_token }}{% set bos_token = "changed" %}{{ bos_token }}', { bos_token: 'B' });
  expect(template.render({})).toBe('Bchanged');
  expect(template.render({ bos_token: 'mine' })).toBe('minechanged');
  expect(template.render({})).toBe('Bchanged');
});
