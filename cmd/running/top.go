package running

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/server"
	"gatehouse/top"
)

// Top is gatehouse top.
func Top() *cobra.Command {
	var f Flags
	var with top.Config
	every, window := grammar.Duration(2*time.Second), grammar.Duration(time.Minute)
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch a running process: requests, denials, latency, memo, lag and routes, live",
		Long: `Asks the running process for its status and metrics, reads the end of its decision log, and shows both every other second: on a terminal as a
full screen, elsewhere as a line each time. Rates and latencies are of the last minute. Keys: q quits, space pauses, r, d, l and n sort the routes by
requests, denials, latency and name.

Routes are read from decision_log.file, which must be on this machine.

Exit code: 0 ended, 2 the process does not answer.`,
		Example: `  gatehouse top
  gatehouse top --once --sort denied
  gatehouse top --every 10s -o json >> load.jsonl`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			process, err := f.process()
			if err != nil {
				return err
			}
			with.Every, with.Window = time.Duration(every), max(time.Duration(window), time.Duration(every))
			with.Status, with.JSON, with.Out = process.Status, f.output.JSON(), c.OutOrStdout()
			f.sources(&with, process)
			if in, ok := c.InOrStdin().(*os.File); ok {
				with.In = in
			}
			return top.Run(c.Context(), with)
		},
	}
	f.addAdmin(c)
	c.Flags().Var(&every, "every", "time between two looks")
	c.Flags().Var(&window, "window", "time that rates and latencies are of")
	c.Flags().StringVar(&with.Sort, "sort", "requests", "order of the routes: requests, denied, latency or route")
	c.Flags().BoolVar(&with.Once, "once", false, "look twice, print that once, and end")
	c.Flags().StringVar(&with.Log, "log", "", "file of the process's decision log (default: the configuration's)")
	return c
}

// sources finds the metrics and the log of the process.
func (f *Flags) sources(with *top.Config, process server.Control) {
	cfg := config.Default()
	if src, err := (config.Source{File: f.config}).OrDefault(); err == nil {
		if read, _, err := src.Read(); err == nil {
			cfg = read
		}
	}
	with.Metrics = process.Metrics
	if with.Log != "" {
		return
	}
	files := []string{cfg.DecisionLog.File}
	for _, s := range cfg.DecisionLog.Sinks {
		files = append(files, s.File)
	}
	with.NoLog = "routes are not known: the configuration has no decision_log.file"
	for _, file := range files {
		switch {
		case file == "-":
			with.NoLog = "routes are not known: the decision log goes to standard output; --log FILE names where that ends up"
		case file != "":
			with.Log = file
			return
		}
	}
}
