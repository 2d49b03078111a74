package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/terminal"
)

func directoryCheckCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "check [FOLDER] [OBJECT#RELATION@SUBJECT]",
		Short: "Say whether a subject has a relation or permission",
		Long: `Prints yes or no. Exit code: 0 yes, 1 no, 2 the question could not be answered.

Without a question, reads questions from standard input, one JSON object a line with object_type, object_id, relation,
subject_type and subject_id, and answers each with one line: {"check": true}, {"check": false} or {"error": "..."}.
Empty lines are passed over. The exit code is then 0 whatever the answers are, and 2 if the directory cannot be read.`,
		Example: `  gatehouse directory check ./directory 'doc:7#can_read@user:alice'
  gatehouse directory check ./directory < questions.jsonl`,
		Args: grammar.Arguments("gatehouse directory check ./directory 'doc:7#can_read@user:alice'", 1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			var q directory.Question
			if len(args) == 2 {
				var err error
				if q, err = format.ParseQuestion(args[1]); err != nil {
					return err
				}
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return answerLines(c.InOrStdin(), c.OutOrStdout(), s)
			}
			yes, err := s.Check(q, time.Now())
			if err != nil {
				return unanswered(s, err, questionOrder, askedOf(q))
			}
			noticeSet(c, s, q.Subject)
			if output.JSON() {
				err = terminal.JSON(c.OutOrStdout()).Encode(map[string]bool{"check": yes})
			} else {
				_, err = fmt.Fprintln(c.OutOrStdout(), map[bool]string{true: "yes", false: "no"}[yes])
			}
			if err == nil && !yes {
				err = grammar.ErrReported
			}
			return err
		},
	}
	f.add(c)
	output.Add(c, "one object")
	return f.orConfigured(c, func(args []string) bool { return len(args) == 0 || len(args) == 1 && strings.Contains(args[0], "#") })
}

const questionOrder = "OBJECT#RELATION@SUBJECT"

func askedOf(q directory.Question) format.Asked {
	return format.Asked{Object: q.Object.String(), Relation: q.Relation, Subject: q.Subject.String()}
}

// maxQuestion bounds a line with a question.
const maxQuestion = 64 << 10

// answerLines answers questions line by line. An answer is written before the next line is waited for.
func answerLines(in io.Reader, out io.Writer, s *directory.Snapshot) error {
	r := bufio.NewReaderSize(in, maxQuestion)
	w := bufio.NewWriterSize(out, 1<<16)
	var questions format.QuestionReader
	for {
		line, err := r.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of it is passed over
			_, err = r.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(fmt.Errorf("reading questions: %w", err), w.Flush())
		}
		if text := bytes.TrimSpace(line); long || len(text) > 0 {
			writeAnswer(w, &questions, string(text), long, s)
		}
		if err != nil { // the end
			return w.Flush()
		}
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

func writeAnswer(w *bufio.Writer, questions *format.QuestionReader, text string, long bool, s *directory.Snapshot) {
	err := fmt.Errorf("a line of more than %d bytes", maxQuestion)
	yes := false
	if !long {
		var q directory.Question
		if q, err = questions.Read(text); err == nil {
			yes, err = s.Check(q, time.Now())
		}
	}
	switch {
	case err != nil:
		reported, _ := json.Marshal(err.Error()) // a text always can
		fmt.Fprintf(w, "{\"error\": %s}\n", terminal.VisibleJSON(reported))
	case yes:
		_, _ = w.WriteString("{\"check\": true}\n") // Flush tells
	default:
		_, _ = w.WriteString("{\"check\": false}\n")
	}
}

func directoryWhyCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "why [FOLDER] OBJECT#RELATION@SUBJECT",
		Short: "Show the relations behind an answer, or the one that is missing",
		Long: `Prints the path of relations from the subject to the object or, where the answer is no, a relation that is missing.

Exit code: 0 yes, 1 no, 2 the question could not be answered.`,
		Example: `  gatehouse directory why ./directory 'doc:7#can_read@user:alice'`,
		Args:    grammar.Arguments("gatehouse directory why ./directory 'doc:7#can_read@user:alice'", 2),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := format.ParseQuestion(args[1])
			if err != nil {
				return err
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			e, err := s.Explain(q, time.Now())
			if err != nil {
				return unanswered(s, err, questionOrder, askedOf(q))
			}
			noticeSet(c, s, q.Subject)
			if output.JSON() {
				err = terminal.JSON(c.OutOrStdout()).Encode(map[string]any{"check": e.Allowed, "why": e.String()})
			} else {
				_, err = fmt.Fprintln(c.OutOrStdout(), terminal.VisibleLines(e.String()))
			}
			if err != nil {
				return err
			}
			if !e.Allowed {
				return grammar.ErrReported
			}
			return nil
		},
	}
	f.add(c)
	output.Add(c, "one object")
	return f.orConfigured(c, exactly(2))
}
