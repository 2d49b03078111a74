package bounds

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	gqlast "github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/lexer"
)

const (
	maxGraphQLText   = 1 << 20
	maxGraphQLTokens = 20_000  // of a query
	maxSchemaTokens  = 200_000 // of a schema
	maxGraphQLDepth  = 200
	maxSpreads       = 10_000 // fragments after expansion
)

// graphql checks built-ins with a query and a schema at these operands, -1 where there is none.
func graphql(query, schema int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		if query >= 0 {
			if refused := graphqlDocument(args[query], maxGraphQLTokens); refused != "" {
				return verdict{refused: refused}
			}
		}
		if schema >= 0 {
			if refused := graphqlDocument(args[schema], maxSchemaTokens); refused != "" {
				return verdict{refused: refused}
			}
		}
		return verdict{work: isolatedWork + 1}
	}
}

func graphqlDocument(t *ast.Term, tokens int) string {
	s, isText := t.Value.(ast.String)
	switch {
	case !isText:
		_, ok := weigh(t.Value, weight{nodes: maxGraphQLTokens * 10, text: maxGraphQLText, depth: 10 * maxGraphQLDepth})
		if object, isObject := t.Value.(ast.Object); ok && isObject {
			if list, isList := member(object, "Fragments").(*ast.Array); isList && list.Len() > 4 {
				ok = false
			}
		}
		if !ok {
			return "a document of GraphQL that is too large, too deep or has too many fragments"
		}
		return ""
	case len(s) > maxGraphQLText:
		return fmt.Sprintf("a document of GraphQL of more than %d bytes", maxGraphQLText)
	}
	return graphqlTokens(string(s), tokens)
}

func member(o ast.Object, key string) ast.Value {
	if t := o.Get(ast.StringTerm(key)); t != nil {
		return t.Value
	}
	return nil
}

// graphqlTokens tokenizes a document as the parser does, without recursion.
func graphqlTokens(document string, most int) string {
	l := lexer.New(&gqlast.Source{Input: document})
	depth, fragment, previous := 0, "", lexer.Token{}
	spreads := map[string][]string{} // by fragment; operations use ""
	for n := 0; ; n++ {
		token, err := l.ReadToken()
		if err != nil || token.Kind == lexer.EOF {
			break
		}
		if n > most {
			return fmt.Sprintf("a document of GraphQL of more than %d tokens", most)
		}
		switch token.Kind {
		case lexer.BraceL, lexer.BracketL, lexer.ParenL:
			if depth++; depth > maxGraphQLDepth {
				return fmt.Sprintf("a document of GraphQL that is nested deeper than %d", maxGraphQLDepth)
			}
		case lexer.BraceR, lexer.BracketR, lexer.ParenR:
			depth = max(depth-1, 0)
		case lexer.Name:
			switch {
			case previous.Kind == lexer.Spread && token.Value != "on":
				spreads[fragment] = append(spreads[fragment], token.Value)
			case depth == 0 && previous.Kind == lexer.Name && previous.Value == "fragment":
				fragment = token.Value
			case depth == 0 && (token.Value == "query" || token.Value == "mutation" || token.Value == "subscription"):
				fragment = ""
			}
		}
		previous = token
	}
	counted, total := map[string]int{}, 0
	for name := range spreads {
		if total += expansion(name, spreads, counted, 0); total > maxSpreads {
			return "a query whose fragments refer to each other too often"
		}
	}
	return ""
}

// expansion returns the number of fragments after expansion, more than maxSpreads if they are recursive.
func expansion(name string, spreads map[string][]string, counted map[string]int, depth int) int {
	if n, known := counted[name]; known {
		return n
	}
	if depth > maxGraphQLDepth {
		return maxSpreads + 1
	}
	counted[name] = maxSpreads + 1 // marks recursion while counting
	n := 1
	for _, next := range spreads[name] {
		if n += expansion(next, spreads, counted, depth+1); n > maxSpreads {
			break
		}
	}
	counted[name] = n
	return n
}
