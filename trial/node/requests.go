package node

import (
	"context"
	"fmt"
	"strings"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/trial"
)

// Requests makes a node, and the requests of tables for it. noMemo turns the memo off.
func Requests(ctx context.Context, src config.Source, args []string, noMemo bool, notice func(string)) (*Node, []*gate.Request, error) {
	looked, files, err := trial.FindFiles(src.File, args)
	if err != nil {
		return nil, nil, err
	}
	tests, leftOut, err := trial.ReadFiles(files, len(args) > 0)
	for _, left := range leftOut {
		notice(left.Error() + ": left out")
	}
	if err == nil && len(tests) == 0 {
		err = fmt.Errorf("there are no requests in %s\ngatehouse test --from-log LOG --out tests.yaml makes some of recorded decisions", strings.Join(looked, ", "))
	}
	if err != nil {
		return nil, nil, err
	}
	t, err := New(ctx, src, nil, func(cfg *config.Config) { cfg.Policy.Memo.Off = cfg.Policy.Memo.Off || noMemo }, notice)
	if err != nil {
		return nil, nil, err
	}
	var requests []*gate.Request
	for _, test := range tests {
		if test.Request.As, err = t.Identity(test.Caller); err != nil {
			t.Close()
			return nil, nil, fmt.Errorf("%s:%d: %w", test.File, test.Line, err)
		}
		requests = append(requests, test.Request.Gate())
	}
	return t, requests, nil
}
