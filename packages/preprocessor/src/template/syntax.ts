/** The syntax tree of `@huggingface/jinja`, as far as it is read here (its own declarations do not resolve under nodenext). */
export interface SyntaxNode {
  readonly type: string;
}

export interface BlockNode extends SyntaxNode {
  readonly body: readonly SyntaxNode[];
}

export interface IfNode extends BlockNode {
  readonly test: SyntaxNode;
  readonly alternate: readonly SyntaxNode[];
}

export interface ForNode extends BlockNode {
  readonly loopvar: SyntaxNode;
  readonly iterable: SyntaxNode;
  readonly defaultBlock: readonly SyntaxNode[];
}

export interface SetNode extends BlockNode {
  readonly assignee: SyntaxNode;
  readonly value: SyntaxNode | null;
}

export interface LiteralNode<T> extends SyntaxNode {
  readonly value: T;
}

export interface MemberNode extends SyntaxNode {
  readonly object: SyntaxNode;
  readonly property: SyntaxNode;
  readonly computed: boolean;
}

export interface SliceNode extends SyntaxNode {
  readonly start?: SyntaxNode;
  readonly stop?: SyntaxNode;
  readonly step?: SyntaxNode;
}

export interface CallNode extends SyntaxNode {
  readonly callee: SyntaxNode;
  readonly args: readonly SyntaxNode[];
}

export interface KeywordNode extends SyntaxNode {
  readonly key: LiteralNode<string>;
  readonly value: SyntaxNode;
}

export interface BinaryNode extends SyntaxNode {
  readonly operator: { readonly value: string };
  readonly left: SyntaxNode;
  readonly right: SyntaxNode;
}

export interface UnaryNode extends SyntaxNode {
  readonly operator: { readonly value: string };
  readonly argument: SyntaxNode;
}

export interface FilterNode extends SyntaxNode {
  readonly operand: SyntaxNode;
  readonly filter: SyntaxNode;
}

export interface TestNode extends SyntaxNode {
  readonly operand: SyntaxNode;
  readonly negate: boolean;
  readonly test: LiteralNode<string>;
}

export interface TernaryNode extends SyntaxNode {
  readonly condition: SyntaxNode;
  readonly trueExpr: SyntaxNode;
  readonly falseExpr: SyntaxNode;
}

export interface SelectNode extends SyntaxNode {
  readonly lhs: SyntaxNode;
  readonly test: SyntaxNode;
}
