package node

import (
	"context"
	"errors"
	"fmt"

	"gatehouse/gate"
	"gatehouse/trial"
)

// Change is a request that two nodes answer in another way.
type Change struct {
	Test          *trial.Test
	Before, After gate.Answer
}

// Compare puts every request to both nodes.
func Compare(ctx context.Context, nodes [2]*Node, tests []*trial.Test) (changes []Change, err error) {
	for _, test := range tests {
		var answers [2]gate.Answer
		for i, t := range nodes {
			if answers[i], err = t.Answer(ctx, test); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", test.File, test.Line, err)
			}
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted before the end")
		}
		if !trial.SameAnswer(&answers[0], &answers[1]) {
			changes = append(changes, Change{test, answers[0], answers[1]})
		}
	}
	return changes, nil
}
