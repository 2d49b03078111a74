package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/builtins"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Facts is what a policy may query besides its input: a directory of users, groups and relations. It is passed to every kind of evaluation
// (Decide, DecideWithin, Key.Decide, Replayer, Inspector); the zero value has no directory. Facts are immutable like a Snapshot: within one
// epoch, the same query to the same Facts has one answer.
type Facts struct {
	// Directory answers the directory built-ins, such as ds.check. nil: there is no directory.
	Directory Directory
	// Version identifies the directory: it is unique within this process. 0: none, and decisions that queried the directory are not
	// memoised.
	Version uint64
}

// Directory answers policies' queries. It is immutable and safe for concurrent use.
type Directory interface {
	// Ask answers one call of a built-in. A nil answer is undefined; an error fails the evaluation, which denies. The answer must not be
	// changed afterwards, and the arguments must not be retained.
	Ask(builtin string, args []rego.Value, now time.Time) (answer rego.Value, err error)
	// Epoch returns the same number for two times if no answer changes between them by expiry.
	Epoch(now time.Time) uint64
}

// Tracer is a Directory that also knows what its answers depend on, so that most changes of a directory leave a memoised decision valid without
// its queries being sent again.
type Tracer interface {
	// Trace is Ask, and adds to a basis what the answer depends on. A nil basis is an empty one; a nil result means that it is unknown. All
	// queries of one basis are sent to one Directory with one time.
	Trace(basis Dependencies, q *Question, now time.Time) (answer rego.Value, on Dependencies, err error)
	// Prepare returns what Trace of any Directory needs of the arguments, which it may retain; nil: nothing. It takes no more memory than
	// preparedBytes.
	Prepare(builtin string, args []rego.Value) any
}

// Dependencies is what answers depend on. It is immutable once its last query was sent.
type Dependencies interface {
	// Holds reports whether nothing of it differs in another Directory at another time. False is no statement.
	Holds(d Directory, now time.Time) bool
}

// Question is one directory query with its answer.
type Question struct {
	Builtin string
	Args    []rego.Value
	Answer  rego.Value // nil: undefined

	// Prepared is what Tracer.Prepare returned; nil where the query is not memoised.
	Prepared any
}

const (
	// maxQuestions bounds the queries of one evaluation.
	maxQuestions = 1000
	// maxAsked and maxAskedBytes bound the queries kept with a decision, for the log and to validate a memoised decision.
	maxAsked      = 64
	maxAskedBytes = 8 << 10
	// askAgain bounds the time to repeat a memoised decision's queries, checked after each: an evaluation has a deadline, this has none.
	askAgain = 5 * time.Millisecond
)

// asking records an evaluation's directory queries.
type asking struct {
	missing   bool // there was no directory
	count     int
	bytes     int64
	truncated bool // there were more queries than are kept
	kept      []Question
}

// note records a query, or that it was left out.
func (a *asking) note(q Question) {
	if a.truncated {
		return
	}
	a.bytes += q.weight()
	if a.truncated = len(a.kept) == maxAsked || a.bytes > maxAskedBytes; !a.truncated {
		a.kept = append(a.kept, q)
	}
}

// weight estimates a query's size as text, in bytes.
func (q *Question) weight() int64 {
	n := int64(len(q.Builtin)) + weight(q.Answer, 0)
	for _, arg := range q.Args {
		n += weight(arg, 0)
	}
	return n
}

func weight(v rego.Value, depth int) int64 {
	switch v := v.(type) {
	case ast.String:
		return int64(len(v)) + 2
	case ast.Number:
		return int64(len(v))
	case *ast.Array, ast.Set, ast.Object:
		if depth > rego.MaxCopied {
			return maxAskedBytes + 1
		}
		return weightOfAll(v, depth+1)
	}
	return 4
}

// weightOfAll is that of a collection's members. It is apart because its closures allocate.
func weightOfAll(v rego.Value, depth int) int64 {
	n := int64(2)
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { n += weight(t.Value, depth) + 1 })
	case ast.Set:
		v.Foreach(func(t *ast.Term) { n += weight(t.Value, depth) + 1 })
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { n += weight(k.Value, depth) + weight(t.Value, depth) + 2 })
	}
	return n
}

// detachedQuestions copies queries, sharing no memory with them, and returns their approximate size in bytes. ok is false if a value is
// nested too deeply.
func (f Facts) detachedQuestions(list []Question) (own []Question, size int64, ok bool) {
	tracer, prepares := f.Directory.(Tracer)
	own = make([]Question, len(list))
	for i, q := range list {
		own[i] = Question{Builtin: q.Builtin, Args: make([]rego.Value, len(q.Args))}
		size += questionBytes
		for j, arg := range q.Args {
			if own[i].Args[j], ok = rego.Copy(arg, &size); !ok {
				return nil, 0, false
			}
		}
		if prepares {
			own[i].Prepared = tracer.Prepare(q.Builtin, own[i].Args)
		}
		if q.Answer == nil {
			continue
		}
		if own[i].Answer, ok = rego.Copy(q.Answer, &size); !ok {
			return nil, 0, false
		}
	}
	return own, size, true
}

// sameAnswers reports whether a directory still gives all recorded answers, and what they depend on. It returns false at the first
// difference, or when it takes too long.
func (f Facts) sameAnswers(list []Question, now time.Time, within time.Duration) (same bool, on Dependencies) {
	var began time.Time
	if len(list) > 1 {
		began = time.Now()
	}
	tracer, known := f.Directory.(Tracer)
	for i := range list {
		if i > 0 && time.Since(began) > within {
			return false, nil
		}
		var answer rego.Value
		var err error
		if known {
			answer, on, err = tracer.Trace(on, &list[i], now)
			known = on != nil
		} else {
			answer, err = f.Directory.Ask(list[i].Builtin, list[i].Args, now)
		}
		if err != nil || !equal(answer, list[i].Answer) {
			return false, nil
		}
	}
	return true, on
}

// equal reports whether no policy can tell two values apart. Equal numbers may differ in their text.
func equal(a, b rego.Value) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	switch a := a.(type) {
	case ast.Boolean:
		b, ok := b.(ast.Boolean)
		return ok && a == b
	case ast.String:
		b, ok := b.(ast.String)
		return ok && a == b
	}
	if a.Compare(b) != 0 {
		return false
	}
	one, two := keyPool.Get().(*Key), keyPool.Get().(*Key)
	defer one.Done()
	defer two.Done()
	return one.exact(a) && two.exact(b) && string(one.text) == string(two.text)
}

// exact sets the key's text to that of a value, and reports whether the value has one.
func (k *Key) exact(v rego.Value) bool {
	k.text, k.starts, k.unfit = k.text[:0], k.starts[:0], false
	k.Value(v, reach.Reads{})
	return !k.unfit
}

// QuestionsJSON returns queries as plain JSON, as in a decision log: a list of {"question": {"ds.check": argument}, "answer": answer}. A
// built-in with several arguments has a list of them; an undefined answer is "undefined": true.
func QuestionsJSON(list []Question) (any, error) {
	out := make([]any, 0, len(list))
	for i := range list {
		q := &list[i]
		args := make([]any, len(q.Args))
		for j, arg := range q.Args {
			var err error
			if args[j], err = rego.JSON(arg); err != nil {
				return nil, err
			}
		}
		fact := map[string]any{}
		if len(args) == 1 {
			fact["question"] = map[string]any{q.Builtin: args[0]}
		} else {
			fact["question"] = map[string]any{q.Builtin: args}
		}
		if q.Answer == nil {
			fact["undefined"] = true
		} else {
			answer, err := rego.JSON(q.Answer)
			if err != nil {
				return nil, err
			}
			fact["answer"] = answer
		}
		out = append(out, fact)
	}
	return out, nil
}

// ParseQuestions parses what QuestionsJSON produced, from a decision log. Queries that the log holds incompletely, and those of unknown
// built-ins, are left out, as if not recorded.
func ParseQuestions(text []byte) ([]Question, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var list []any
	if _, err := rego.DecodeJSON(text, &list); err != nil {
		return nil, fmt.Errorf("reading what was asked of the directory: %w", err)
	}
	var out []Question
	for _, fact := range list[:min(len(list), maxAsked)] {
		if q, ok := parseQuestion(fact); ok {
			out = append(out, q)
		}
	}
	return out, nil
}

func parseQuestion(fact any) (q Question, ok bool) {
	members, _ := fact.(map[string]any)
	question, _ := members["question"].(map[string]any)
	answer, answered := members["answer"]
	if undefined := members["undefined"] == true; len(question) != 1 || answered == undefined || hidden(fact) {
		return q, false
	}
	for name, args := range question {
		q.Builtin = name
		list := []any{args}
		if arity := builtins.DirectoryArity(name); arity > 1 {
			list, _ = args.([]any)
		}
		if len(list) == 0 || len(list) != builtins.DirectoryArity(name) {
			return q, false
		}
		for _, arg := range list {
			v, err := rego.FromJSON(arg)
			if err != nil {
				return q, false
			}
			q.Args = append(q.Args, v)
		}
	}
	if answered {
		var err error
		q.Answer, err = rego.FromJSON(answer)
		return q, err == nil
	}
	return q, true
}

// hidden reports whether something was masked in plain JSON.
func hidden(x any) bool {
	switch x := x.(type) {
	case string:
		return strings.Contains(x, leftOut)
	case []any:
		for _, e := range x {
			if hidden(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range x {
			if strings.Contains(k, leftOut) || hidden(e) {
				return true
			}
		}
	}
	return false
}

func directoryBuiltins() map[string]*topdown.Builtin {
	out := make(map[string]*topdown.Builtin, 16)
	for _, declaration := range builtins.DirectoryDeclarations() {
		out[declaration.Name] = &topdown.Builtin{Decl: declaration, Func: func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			e, ok := bctx.Cancel.(*evaluation)
			if !ok {
				return nil
			}
			answer, err := e.ask(declaration, args)
			if err != nil { // an undefined value would become true under not
				return topdown.Halt{Err: &topdown.Error{Code: topdown.BuiltinErr, Message: declaration.Name + ": " + err.Error(), Location: bctx.Location}}
			}
			if answer == nil {
				return nil
			}
			return iter(ast.NewTerm(answer))
		}}
	}
	return out
}

var (
	// errTooMany ends an evaluation with too many queries.
	errTooMany = errors.New("too many questions to the directory: limit exceeded")
	errMissing = errors.New("there is no directory configured, and without an answer the policy could allow")
)

// ask sends one query to the evaluation's facts and records it.
func (e *evaluation) ask(b *ast.Builtin, args []*ast.Term) (rego.Value, error) {
	if e.facts.Directory == nil {
		e.asked.missing = true
		if e.strict {
			return nil, errMissing
		}
		return nil, nil
	}
	if e.asked.count++; e.asked.count > maxQuestions {
		return nil, errTooMany
	}
	e.sinceCheck |= lookEvery - 1 // a query may take long: check the clock after each
	question := Question{Builtin: b.Name, Args: make([]rego.Value, b.Decl.Arity())}
	for i := range question.Args {
		question.Args[i] = args[i].Value
	}
	var err error
	if question.Answer, err = e.facts.Directory.Ask(b.Name, question.Args, e.now); err != nil {
		return nil, err
	}
	e.asked.note(question)
	return question.Answer, nil
}

// directoryNotices reports each place where a module queries the directory, for when there is none.
func directoryNotices(module *ast.Module) []string {
	var notices []string
	ast.WalkTerms(module, func(t *ast.Term) bool {
		if ref, ok := t.Value.(ast.Ref); ok && t.Location != nil && builtins.Is(ref) && builtins.AsksDirectory(ref.String()) {
			notices = append(notices, fmt.Sprintf("%s:%d: %s is undefined: there is no directory", t.Location.File, t.Location.Row, ref))
		}
		return false
	})
	return notices
}
