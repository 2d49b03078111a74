package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/routes"
	"gatehouse/terminal"
	"gatehouse/trial"
)

func routesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "routes",
		Short: "List, match and import route tables",
	}
	return grammar.Family(c, routesListCommand(), routesMatchCommand(), routesImportCommand())
}

// readTable reads a route table, and tells on w what its keeper should know.
func readTable(file string, w io.Writer) (*routes.Table, error) {
	text, err := config.ReadUpTo(file, edge.MaxRoutes)
	if err != nil {
		return nil, fmt.Errorf("reading the route table: %w", err)
	}
	table, notices, err := routes.Parse(file, text)
	printNotices(w, notices)
	return table, err
}

func printNotices(w io.Writer, notices []routes.Notice) {
	for _, n := range notices {
		fmt.Fprintln(w, n)
	}
}

func routesListCommand() *cobra.Command {
	var output grammar.Output
	var of tableChoice
	c := &cobra.Command{
		Use:   "list [FILE]",
		Short: "Print the routes of a table",
		Long: `Prints the routes of a table in the order of the file, groups flattened; without FILE those of the configuration's tables. Errors in the
table, and routes that can never match, are printed to standard error.`,
		Example: `  gatehouse routes list
  gatehouse routes list routes.yaml
  gatehouse routes list -o json routes.yaml     # {"methods": ["GET"], "template": "/orders/<int:id>", "name": "orders.show"}`,
		Args: grammar.Arguments("gatehouse routes list routes.yaml", 0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := of.files(args)
			if err != nil {
				return err
			}
			for _, file := range files {
				table, err := readTable(file, c.ErrOrStderr())
				if err != nil {
					return err
				}
				list := listText
				if output.JSON() {
					list = listJSON
				} else if len(files) > 1 {
					fmt.Fprintf(c.OutOrStdout(), "%s:\n", terminal.Visible(file))
				}
				if err := list(c.OutOrStdout(), table); err != nil {
					return err
				}
			}
			return nil
		},
	}
	output.Add(c, "one object a line")
	of.add(c)
	return c
}

// tableChoice says which table is meant where none is named.
type tableChoice struct{ config, app string }

func (o *tableChoice) add(c *cobra.Command) {
	c.Flags().StringVarP(&o.config, "config", "c", "", "configuration whose route table is read (default: gatehouse.yaml, if it exists)")
	c.Flags().StringVar(&o.app, "app", "", "which of several applications in the configuration")
}

// files are the tables that were named, or those of the configuration.
func (o *tableChoice) files(args []string) (files []string, err error) {
	if len(args) > 0 {
		return args, nil
	}
	src, err := config.Source{File: o.config}.OrDefault()
	if err != nil {
		return nil, errors.New("which route table? name its file, or a configuration with --config")
	}
	cfg, doc, err := src.Read()
	if err == nil {
		err = errors.Join(doc.Errs...)
	}
	if err != nil {
		return nil, err
	}
	var apps []string
	for _, app := range cfg.Applications() {
		if apps = append(apps, app.Name); app.Routes.File != "" && (o.app == "" || o.app == app.Name) {
			files = append(files, app.Routes.File)
		}
	}
	switch {
	case o.app != "" && !slices.Contains(apps, o.app):
		return nil, fmt.Errorf("%s has no application %q: there are %s", src.File, o.app, strings.Join(apps, ", "))
	case len(files) == 0:
		return nil, fmt.Errorf("%s names no route table: set routes.file, or name the table's file", src.File)
	}
	return files, nil
}

// methodsOf are the methods as routes.yaml has them; ANY is every method.
func methodsOf(r *routes.Route) []string {
	if r.Methods == nil {
		return []string{"ANY"}
	}
	return r.Methods
}

func listJSON(w io.Writer, table *routes.Table) error {
	out := terminal.JSON(w)
	for _, r := range table.Routes() {
		if err := out.Encode(struct {
			Methods     []string `json:"methods"`
			Template    string   `json:"template"`
			Name        string   `json:"name"`
			Host        string   `json:"host,omitempty"`
			Tags        []string `json:"tags,omitempty"`
			Guess       bool     `json:"guess,omitempty"`
			Unsupported string   `json:"unsupported,omitempty"`
		}{methodsOf(r), r.Template, r.Name, r.Host, r.Tags, r.Guess, r.Unsupported}); err != nil {
			return err
		}
	}
	return nil
}

func listText(w io.Writer, table *routes.Table) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range table.Routes() {
		var notes []string
		for _, n := range []struct{ what, text string }{{"host ", r.Host}, {"tags ", strings.Join(r.Tags, ", ")}, {"unsupported: ", r.Unsupported}} {
			if n.text != "" {
				notes = append(notes, n.what+n.text)
			}
		}
		if r.Guess {
			notes = append(notes, "a guess")
		}
		line := strings.Join([]string{strings.Join(methodsOf(r), ", "), r.Template, cmp.Or(r.Name, "-"), strings.Join(notes, "; ")}, "\t")
		fmt.Fprintln(columns, strings.TrimRight(line, "\t"))
	}
	return columns.Flush()
}

func routesMatchCommand() *cobra.Command {
	var host string
	var output grammar.Output // JSON either way
	var of tableChoice
	c := &cobra.Command{
		Use:   "match [FILE] [METHOD PATH]",
		Short: "Show which route a request matches",
		Long: `Prints one line of JSON: {"outcome": "match", "template": "/orders/<int:id>", "params": {"id": "17"}}. The outcome is
match, redirect (the application would redirect to another path), 405, 404 or refused (ambiguous path: the route cannot
be determined; forms lists what is ambiguous). The path is percent-encoded, as sent; a query is ignored.

Without METHOD and PATH it reads requests from standard input, one JSON object {"method": "GET", "path": "/orders/17"} per
line, optionally with "host", and prints one line for each. For an invalid request the line is {"error": ...}, and the
exit code is 2 in the end.

Without FILE it is the configuration's table.`,
		Example: `  gatehouse routes match GET /orders/17
  gatehouse routes match routes.yaml GET /orders/17
  gatehouse routes match routes.yaml < requests.jsonl`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				if _, ok := trial.IsMethod(args[0]); ok {
					return nil
				}
			}
			return grammar.Arguments("gatehouse routes match routes.yaml GET /orders/17", 0, 1, 3)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			files, err := of.files(args[:len(args)%2])
			if err != nil {
				return err
			}
			if len(files) > 1 {
				return errors.New("there are several applications: name one with --app, or its table's file")
			}
			table, err := readTable(files[0], io.Discard) // list tells the notices
			if err != nil {
				return err
			}
			if args = args[len(args)%2:]; len(args) == 2 {
				return terminal.JSON(c.OutOrStdout()).Encode(matched(table, args[0], host, args[1]))
			}
			return matchLines(table, host, c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	output.Add(c, "which text is too")
	of.add(c)
	c.Flags().StringVar(&host, "host", "", "the Host header, for applications that match hosts")
	return c
}

// matchAnswer is a line of `routes match`.
type matchAnswer struct {
	Outcome  string            `json:"outcome"`
	Template string            `json:"template"` // of the route that takes the request, else ""
	Params   map[string]string `json:"params"`
	Also     []string          `json:"also,omitempty"`  // templates of further routes that may take it: the rules of all of them must allow
	Forms    []string          `json:"forms,omitempty"` // of a refused path
}

func matched(table *routes.Table, method, host, path string) matchAnswer {
	path, _, _ = strings.Cut(path, "?")
	m := table.Match(method, host, path)
	answer := matchAnswer{Outcome: m.Outcome.String(), Params: map[string]string{}}
	switch m.Outcome {
	case routes.Matched:
		answer.Template = m.Route.Template
		for _, p := range m.Params {
			answer.Params[p.Name] = p.Value
		}
		for i := range m.Also {
			answer.Also = append(answer.Also, m.Also[i].Route.Template)
		}
	case routes.Refused:
		answer.Forms = m.Forms.Names()
	}
	return answer
}

// maxRequestLine bounds a line of requests; no server takes a target that is as long.
const maxRequestLine = 1 << 20

// matchLines answers each line of r, at the latest when it has to wait for the next.
func matchLines(table *routes.Table, host string, r io.Reader, w, problems io.Writer) error {
	in, out := bufio.NewReaderSize(r, maxRequestLine), bufio.NewWriter(w)
	answers := terminal.JSON(out)
	bad := 0
	for number := 1; ; number++ {
		line, err := requestLine(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return errors.Join(fmt.Errorf("reading requests: %w", err), out.Flush())
		}
		if err == nil && len(line) == 0 {
			continue
		}
		answer, err := matchLine(table, host, line, err)
		if err != nil {
			bad++
			message := fmt.Sprintf("line %d: %s", number, terminal.Sentences(err, err.Error()))
			fmt.Fprintln(problems, "gatehouse: "+message)
			answer = map[string]string{"error": message}
		}
		if err = answers.Encode(answer); err == nil && in.Buffered() == 0 {
			err = out.Flush()
		}
		if err != nil {
			return fmt.Errorf("writing answers: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing answers: %w", err)
	}
	if bad > 0 {
		return fmt.Errorf("not a request: %s\na request is a line such as {\"method\": \"GET\", \"path\": \"/orders/17\"}", terminal.Count(bad, "line"))
	}
	return nil
}

// matchLine is the answer to one line, or why there is none.
func matchLine(table *routes.Table, host string, line []byte, err error) (any, error) {
	if err != nil {
		return nil, fmt.Errorf("longer than %d bytes", maxRequestLine)
	}
	var request matchRequest
	if err := request.parse(line); err != nil {
		return nil, err
	}
	return matched(table, *request.Method, cmp.Or(request.Host, host), *request.Path), nil
}

// requestLine returns the next line without its end. One that is too long is read to its end, and ErrBufferFull; after the
// last one comes EOF.
func requestLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		return nil, bufio.ErrBufferFull
	}
	if errors.Is(err, io.EOF) && len(line) > 0 {
		err = nil
	}
	return bytes.TrimSpace(line), err
}

// matchRequest is a line that `routes match` reads. Other keys are the caller's own.
type matchRequest struct {
	Method *string `json:"method"`
	Path   *string `json:"path"`
	Host   string  `json:"host"`
}

func (m *matchRequest) parse(line []byte) error {
	if err := json.Unmarshal(line, m); err != nil {
		return fmt.Errorf("no request: %w", err)
	}
	if m.Method == nil || m.Path == nil {
		return errors.New("no request: method and path are required")
	}
	return nil
}
