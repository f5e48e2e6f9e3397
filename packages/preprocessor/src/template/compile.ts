import type {
  BinaryNode,
  BlockNode,
  CallNode,
  FilterNode,
  ForNode,
  IfNode,
  KeywordNode,
  LiteralNode,
  MemberNode,
  SelectNode,
  SetNode,
  SliceNode,
  SyntaxNode,
  TernaryNode,
  TestNode,
  UnaryNode,
} from './syntax.ts';
import { LoopState, Namespace, add, callMethod, contains, equals, filter, giveUp, integerOperator, isTrue, iterate, join, member, show, slice, test } from './values.ts';

/** Variables, innermost first. Only `for` opens a scope, as in @huggingface/jinja. */
export class Scope {
  readonly values: Map<string, unknown>;
  readonly #parent: Scope | undefined;

  constructor(parent?: Scope) {
    this.values = new Map();
    this.#parent = parent;
  }

  get(name: string): unknown {
    const value = this.values.get(name);
    if (value !== undefined || this.#parent === undefined || this.values.has(name)) return value;
    return this.#parent.get(name);
  }
}

type Expression = (scope: Scope) => unknown;
/** Returns the text of the statement. */
type Statement = (scope: Scope) => string;

/**
 * A template as closures over plain values, without `eval`. Statements and expressions that are not covered throw `giveUp` when
 * they are reached, so a template with a rare branch still runs compiled as long as the branch is not taken.
 */
export function compileProgram(program: BlockNode): Statement {
  return block(program.body);
}

function block(nodes: readonly SyntaxNode[]): Statement {
  const statements = nodes.filter((node) => node.type !== 'Comment').map(statement);
  if (statements.length === 1) return statements[0];
  return (scope) => {
    let text = '';
    for (let i = 0; i < statements.length; i++) text += statements[i](scope);
    return text;
  };
}

function statement(node: SyntaxNode): Statement {
  switch (node.type) {
    case 'StringLiteral': {
      const { value } = node as LiteralNode<string>;
      return () => value;
    }
    case 'If':
      return ifStatement(node as IfNode);
    case 'For':
      return forStatement(node as ForNode);
    case 'Set':
      return setStatement(node as SetNode);
    case 'Macro':
    case 'CallStatement':
    case 'FilterStatement':
    case 'Break':
    case 'Continue':
      return unsupported;
    default: {
      const value = expression(node);
      return (scope) => show(value(scope));
    }
  }
}

function unsupported(): never {
  throw giveUp;
}

function ifStatement(node: IfNode): Statement {
  const condition = expression(node.test);
  const then = block(node.body);
  const otherwise = block(node.alternate);
  return (scope) => (isTrue(condition(scope)) ? then(scope) : otherwise(scope));
}

function forStatement(node: ForNode): Statement {
  if (node.loopvar.type !== 'Identifier' || node.iterable.type === 'SelectExpression') return unsupported;
  const name = (node.loopvar as LiteralNode<string>).value;
  const iterable = expression(node.iterable);
  const body = block(node.body);
  const otherwise = block(node.defaultBlock);
  return (outer) => {
    const items = iterate(iterable(outer));
    const scope = new Scope(outer);
    if (items.length === 0) return otherwise(scope);
    const loop = new LoopState(items);
    let text = '';
    for (let i = 0; i < items.length; i++) {
      loop.index0 = i;
      scope.values.set('loop', loop).set(name, items[i]);
      text += body(scope);
    }
    return text;
  };
}

function setStatement(node: SetNode): Statement {
  const value = node.value === null ? block(node.body) : expression(node.value);
  if (node.assignee.type === 'Identifier') {
    const name = (node.assignee as LiteralNode<string>).value;
    return (scope) => {
      const result = value(scope);
      // The state of a loop changes with each pass, where the library makes a new object.
      if (result instanceof LoopState) throw giveUp;
      scope.values.set(name, result);
      return '';
    };
  }
  const target = node.assignee as MemberNode;
  if (target.type !== 'MemberExpression' || target.property.type !== 'Identifier') return unsupported;
  const object = expression(target.object);
  const name = (target.property as LiteralNode<string>).value;
  return (scope) => {
    const result = value(scope);
    const namespace = object(scope);
    if (!(namespace instanceof Namespace)) throw giveUp;
    namespace.values.set(name, result);
    return '';
  };
}

const builders: Readonly<Record<string, (node: never) => Expression>> = {
  StringLiteral: literal,
  IntegerLiteral: literal,
  ArrayLiteral: (node: LiteralNode<readonly SyntaxNode[]>) => {
    const items = node.value.map(expression);
    return (scope) => items.map((item) => item(scope));
  },
  Identifier: ({ value }: LiteralNode<string>) => (scope) => scope.get(value),
  MemberExpression: memberExpression,
  CallExpression: callExpression,
  UnaryExpression: unaryExpression,
  BinaryExpression: binaryExpression,
  FilterExpression: (node: FilterNode) => {
    if (node.filter.type !== 'Identifier') return unsupported;
    const operand = expression(node.operand);
    const name = (node.filter as LiteralNode<string>).value;
    return (scope) => filter(operand(scope), name);
  },
  TestExpression: (node: TestNode) => {
    const operand = expression(node.operand);
    const check = test(node.test.value);
    return check === undefined ? unsupported : (scope) => check(operand(scope)) !== node.negate;
  },
  SelectExpression: selectExpression,
  Ternary: (node: TernaryNode) => {
    const [condition, yes, no] = [expression(node.condition), expression(node.trueExpr), expression(node.falseExpr)];
    return (scope) => (isTrue(condition(scope)) ? yes(scope) : no(scope));
  },
};

/** `value if condition`, without an else. */
function selectExpression(node: SelectNode): Expression {
  const condition = expression(node.test);
  const value = expression(node.lhs);
  return (scope) => (isTrue(condition(scope)) ? value(scope) : undefined);
}

function expression(node: SyntaxNode): Expression {
  return Object.hasOwn(builders, node.type) ? builders[node.type](node as never) : unsupported;
}

function literal({ value }: LiteralNode<unknown>): Expression {
  return () => value;
}

function memberExpression(node: MemberNode): Expression {
  const object = expression(node.object);
  if (!node.computed) {
    if (node.property.type !== 'Identifier') return unsupported;
    const name = (node.property as LiteralNode<string>).value;
    return (scope) => member(object(scope), name);
  }
  if (node.property.type === 'SliceExpression') {
    const { start, stop, step } = node.property as SliceNode;
    const [from, to, by] = [start, stop, step].map((bound) => (bound === undefined ? () => undefined : expression(bound)));
    return (scope) => slice(object(scope), from(scope), to(scope), by(scope));
  }
  const key = expression(node.property);
  return (scope) => member(object(scope), key(scope));
}

function callExpression(node: CallNode): Expression {
  if (node.callee.type === 'Identifier') {
    const name = (node.callee as LiteralNode<string>).value;
    if (name === 'namespace') return namespaceCall(node);
    if (name !== 'strftime_now' || node.args.length !== 1) return unsupported;
    const format = expression(node.args[0]);
    return (scope) => {
      const callee = scope.get(name);
      const argument = format(scope);
      if (typeof callee !== 'function' || typeof argument !== 'string') throw giveUp;
      return (callee as (format: string) => string)(argument);
    };
  }
  const callee = node.callee as MemberNode;
  if (callee.type !== 'MemberExpression' || callee.computed || callee.property.type !== 'Identifier') return unsupported;
  if (node.args.some((argument) => argument.type.startsWith('Keyword') || argument.type === 'SpreadExpression')) return unsupported;
  const object = expression(callee.object);
  const method = (callee.property as LiteralNode<string>).value;
  const args = node.args.map(expression);
  return (scope) => {
    const values = args.map((argument) => argument(scope));
    return callMethod(object(scope), method, values);
  };
}

/** namespace(name=value, …) */
function namespaceCall(node: CallNode): Expression {
  if (node.args.some((argument) => argument.type !== 'KeywordArgumentExpression')) return unsupported;
  const entries = (node.args as readonly KeywordNode[]).map(({ key, value }) => [key.value, expression(value)] as const);
  return (scope) => {
    if (scope.get('namespace') !== undefined) throw giveUp; // a variable of that name
    const namespace = new Namespace();
    for (const [name, value] of entries) namespace.values.set(name, value(scope));
    return namespace;
  };
}

function unaryExpression(node: UnaryNode): Expression {
  const argument = expression(node.argument);
  if (node.operator.value === 'not') return (scope) => !isTrue(argument(scope));
  if (node.operator.value !== '-') return unsupported;
  return (scope) => {
    const value = argument(scope);
    if (!Number.isInteger(value)) throw giveUp;
    return -(value as number);
  };
}

const operators: Readonly<Record<string, (left: unknown, right: unknown) => unknown>> = {
  '==': equals,
  '!=': (left, right) => !equals(left, right),
  in: (left, right) => contains(right, left),
  'not in': (left, right) => !contains(right, left),
  '+': add,
  '~': join,
};

function binaryExpression(node: BinaryNode): Expression {
  const left = expression(node.left);
  const right = expression(node.right);
  const operator = node.operator.value;
  if (operator === 'and') {
    return (scope) => {
      const value = left(scope);
      return isTrue(value) ? right(scope) : value;
    };
  }
  if (operator === 'or') {
    return (scope) => {
      const value = left(scope);
      return isTrue(value) ? value : right(scope);
    };
  }
  const apply = Object.hasOwn(operators, operator) ? operators[operator] : integerOperator(operator);
  return apply === undefined ? unsupported : (scope) => apply(left(scope), right(scope));
}
