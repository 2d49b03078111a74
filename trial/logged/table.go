// Package logged makes tables of requests out of the decisions of a log: rows of tests.yaml that come out as recorded. It is the library behind
// gatehouse test --from-log. It imports trial, whose tables they are, and replay, which reads the log. It prints nothing.
package logged

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/read"
	"gatehouse/gate"
	"gatehouse/gate/recorded"
	"gatehouse/identity"
	"gatehouse/replay"
	"gatehouse/terminal"
	"gatehouse/trial"
)

// maxRows bounds the table that is made of a log.
const maxRows = 10_000

// Table is a table of requests that is being made of a log.
type Table struct {
	Rows []Row
	Made int // rows that come out as recorded
	Left int // decisions that no row can be made of
	Read int // events
	Bad  int // events that could not be read

	trial     *trial.Trial
	candidate *replay.Candidate
	seen      map[string]bool
}

// Row is what became of one decision, the first of its route, verdict and set of roles. What it says is the log's: a client may have written it.
type Row struct {
	DecisionID, Timestamp string
	Notes                 []string // what the policy reads of the decision and no row has
	Line                  string   // in YAML, of a list, with its end
	Problem               string   // why the row is left out, "" where it is not
}

// New is a table without rows, whose requests the view's gate decides about.
func New(t *trial.Trial, view *gate.View) *Table {
	return &Table{trial: t, candidate: replay.NewCandidate(view), seen: map[string]bool{}}
}

// Take makes rows of the decisions that are wanted, until the log ends, enough says that an event was the last, or there are 10,000 rows.
func (m *Table) Take(ctx context.Context, log *read.Reader, wants func(*replay.Record) bool, enough func(event []byte) bool) error {
	var r replay.Record
	for {
		event, err := log.Next()
		if _, damaged := errors.AsType[*read.DamageError](err); damaged {
			m.Bad++
			continue
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return errors.New("interrupted before the end")
		}
		m.Read++
		if err := r.Parse(event, int64(m.Read)); err != nil {
			m.Bad++
			continue
		}
		if !r.Gap.Recorded && wants(&r) {
			if err := m.consider(ctx, &r); err != nil {
				return err
			}
		}
		if enough(event) || m.Made >= maxRows {
			return nil
		}
	}
}

// consider makes a row of the first decision of its kind.
func (m *Table) consider(ctx context.Context, r *replay.Record) error {
	route := r.RouteOf()
	roles := slices.Sorted(slices.Values(events.Strings(r.Identity.Roles)))
	kind := strings.Join([]string{route.App, route.Label(), r.Verdict().String(), strconv.FormatBool(r.Identity.Authenticated), strings.Join(roles, ",")}, "\x00")
	if m.seen[kind] {
		return nil
	}
	m.seen[kind] = true
	row, notes, err := m.row(r, route)
	if err != nil {
		return fmt.Errorf("decision %s: %w", r.DecisionID, err)
	}
	made := Row{DecisionID: r.DecisionID.Decode(), Timestamp: r.Timestamp.Decode(), Notes: notes}
	made.Line, made.Problem = m.fitting(ctx, row)
	if made.Problem != "" {
		m.Left++
	} else {
		m.Made++
	}
	m.Rows = append(m.Rows, made)
	return nil
}

// rowVariant is how much of the request a row spells out.
type rowVariant int

const (
	plainRow rowVariant = iota
	hostRow
	headersRow // all headers that the log has
	rowVariants
)

// row is what a table can have of a decision.
type row struct {
	record *replay.Record
	route  replay.Route
	input  map[string]any // nil where the policy was not asked
	reads  func(path ...string) bool
	method string
}

// fitting is the shortest row that comes out as recorded, or else the shortest of all and what comes of the longest.
func (m *Table) fitting(ctx context.Context, r *row) (line, problem string) {
	for v := range rowVariants {
		line = r.line(v, m.trial)
		tests, err := trial.Read("row", []byte("tests:\n  - "+line))
		if err != nil {
			return line, err.Error()
		}
		answer, err := m.trial.Answer(ctx, tests[0])
		if err != nil {
			return line, err.Error()
		}
		if len(tests[0].Compare(&answer)) == 0 {
			return line, ""
		}
		problem = "here it comes out as " + trial.Line(&answer)
	}
	return r.line(plainRow, m.trial), problem
}

// row reads what a row can be made of, and says what it lacks.
func (m *Table) row(r *replay.Record, route replay.Route) (*row, []string, error) {
	out := &row{record: r, route: route, method: r.Request.Method.Decode(), reads: func(...string) bool { return false }}
	if r.Input == nil {
		return out, nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(r.Input))
	d.UseNumber()
	if err := d.Decode(&out.input); err != nil {
		return nil, nil, fmt.Errorf("its input: %w", err)
	}
	reads, asked, err := m.candidate.Reads(r)
	if err != nil {
		return nil, nil, err
	}
	if !asked {
		return out, nil, nil
	}
	out.reads = reads.Any
	var notes []string
	for _, path := range unsupportedParts {
		if reads.Any(path...) && plainAt(out.input, path...) != nil {
			notes = append(notes, "input."+strings.Join(path, "."))
		}
	}
	for _, list := range []json.RawMessage{r.Erased, r.Masked} {
		for _, pointer := range events.Strings(list) {
			if part := replay.ReadRef(reads, pointer); part != "" {
				notes = append(notes, part)
			}
		}
	}
	if kind, _ := plainAt(out.input, "identity", "type").(string); kind != identity.TypeJWT && r.Identity.Authenticated && reads.Any("identity", "type") {
		notes = append(notes, "input.identity.type")
	}
	if truncated, _ := out.input["truncated_body"].(bool); truncated && reads.Any("truncated_body") {
		notes = append(notes, "input.truncated_body")
	}
	slices.Sort(notes)
	return out, slices.Compact(notes), nil
}

// unsupportedParts are the parts of an input that a table has no key for.
var unsupportedParts = [][]string{{"peer"}, {"source_principal"}, {"attributes", "source"}, {"attributes", "destination"}, {"attributes", "contextExtensions"},
	{"attributes", "metadataContext"}, {"attributes", "routeMetadataContext"}, {"attributes", "tlsSession"}, {"attributes", "request", "time"},
	{"attributes", "request", "http", "id"}}

// plainAt follows names down through objects.
func plainAt(value any, names ...string) any {
	for _, name := range names {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[name]
	}
	return value
}

// line is the row in YAML.
func (r *row) line(v rowVariant, t *trial.Trial) string {
	request := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	add := func(key string, value *yaml.Node) { request.Content = append(request.Content, textNode(key), value) }
	r.caller(t, add)
	if host := r.record.Request.Host.Decode(); v >= hostRow && host != "" {
		add("host", textNode(host))
	}
	add(r.method, textNode(r.record.Request.Path.Decode()))
	r.content(v, add)
	verdict, was := "allow", r.record.Verdict()
	if !was.Allow {
		verdict = "deny"
		add("status", numberNode(was.Status))
		add("reason", textNode(was.ReasonName()))
	}
	if name := firstText(r.route.Name, r.route.Template); name != "" {
		add("route", textNode(name))
	}
	line, err := yaml.Marshal(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode(verdict), request}})
	if err != nil {
		return "{}\n" // plain nodes always encode
	}
	return strings.ReplaceAll(strings.TrimSuffix(string(line), "\n"), "\n", " ") + "\n"
}

func firstText(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// caller adds who asked. What a token says beyond names and roles goes into claims, where the issuer's configuration looks for it.
func (r *row) caller(t *trial.Trial, add func(string, *yaml.Node)) {
	if !r.record.Identity.Authenticated {
		return
	}
	add("as", textNode(r.record.Identity.Subject.Decode()))
	if roles := events.Strings(r.record.Identity.Roles); len(roles) > 0 {
		add("roles", textsNode(roles))
	}
	claims := map[string]any{}
	if d := json.NewDecoder(bytes.NewReader(r.record.Identity.Claims)); r.record.Identity.Claims != nil {
		d.UseNumber()
		_ = d.Decode(&claims) // what the log has of them; without, the row shows whether they were needed
	}
	first := t.Issuer(map[string]any{})
	if issuer, _ := plainAt(r.input, "identity", "issuer").(string); issuer != "" && first.Issuer != "" && issuer != first.Issuer {
		claims["iss"] = issuer
		first = t.Issuer(claims)
	}
	for name, path := range map[string]string{"groups": first.Claims.Groups, "scopes": first.Claims.Scopes} {
		if list := plainTexts(plainAt(r.input, "identity", name)); len(list) > 0 && path != "" {
			path, _, _ = strings.Cut(path, " ")
			trial.SetClaim(claims, path, list)
		}
	}
	if len(claims) > 0 {
		add("claims", jsonNode(claims))
	}
}

// content adds headers and body, as far as the policy reads them.
func (r *row) content(v rowVariant, add func(string, *yaml.Node)) {
	http := []string{"attributes", "request", "http"}
	headers, _ := plainAt(r.input, slices.Concat(http, []string{"headers"})...).(map[string]any)
	masked := strings.Join(append(events.Strings(r.record.Masked), events.Strings(r.record.Erased)...), "\n") + "\n"
	list := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		value, _ := headers[name].(string)
		read := v >= headersRow || r.reads(slices.Concat(http, []string{"headers", name})...)
		if read && !strings.HasPrefix(name, ":") && name != "content-length" && name != "content-type" && !strings.Contains(masked, "/headers/"+name+"\n") {
			list.Content = append(list.Content, textNode(name), textNode(value))
		}
	}
	body, kind := r.body(headers)
	if kind != "" {
		list.Content = append(list.Content, textNode("content-type"), textNode(kind))
	}
	if len(list.Content) > 0 {
		add("headers", list)
	}
	if body != nil {
		add("body", body)
	}
}

// body is the body as the policy saw it, with its type where that is not JSON; nil where it did not look.
func (r *row) body(headers map[string]any) (body *yaml.Node, kind string) {
	parsed := plainAt(r.input, "parsed_body")
	if parsed == nil || !r.reads("parsed_body") {
		return nil, ""
	}
	kind, _ = headers["content-type"].(string)
	if plain, _, _ := strings.Cut(kind, ";"); kind == "" || strings.TrimSpace(plain) == "application/json" {
		return jsonNode(parsed), ""
	}
	req, err := recorded.Request(r.input)
	if err != nil || req.Body == "" {
		return nil, ""
	}
	return textNode(req.Body), kind
}

func plainTexts(value any) (out []string) {
	list, _ := value.([]any)
	for _, member := range list {
		if text, ok := member.(string); ok {
			out = append(out, text)
		}
	}
	return out
}

func textNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	if n.Style == yaml.LiteralStyle { // within a row there is no room for lines
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func numberNode(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}

func textsNode(list []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, text := range list {
		n.Content = append(n.Content, textNode(text))
	}
	return n
}

// jsonNode is plain JSON as a node: JSON is YAML.
func jsonNode(value any) *yaml.Node {
	var document yaml.Node
	text, err := json.Marshal(value)
	if err == nil {
		err = yaml.Unmarshal(text, &document)
	}
	if err != nil || len(document.Content) == 0 {
		return textNode(string(text))
	}
	unquote(document.Content[0])
	return document.Content[0]
}

// unquote takes the quotes off where YAML needs none.
func unquote(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		*n = *textNode(n.Value)
	}
	for _, inner := range n.Content {
		unquote(inner)
	}
}

// Text is the table as a file that gatehouse test reads. from is the log's name, as it was given.
func (m *Table) Text(from string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Made of %s by gatehouse test --from-log: the first decision of each route, verdict and set of roles.\n", terminal.Visible(from))
	out.WriteString("tests:")
	if m.Made == 0 {
		out.WriteString(" []")
	}
	out.WriteString("\n")
	for _, r := range m.Rows {
		fmt.Fprintf(&out, "\n  # %s at %s\n", terminal.Visible(r.DecisionID), terminal.Visible(r.Timestamp))
		for _, note := range r.Notes {
			fmt.Fprintf(&out, "  # not in the row, and the policy reads it: %s\n", terminal.Visible(note))
		}
		if r.Problem != "" {
			fmt.Fprintf(&out, "  # left out: %s\n  #", terminal.Visible(r.Problem))
		}
		out.WriteString("  - " + r.Line)
	}
	return out.Bytes()
}
