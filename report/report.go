// Package report is how commands show people what they found in decisions: a line of a decision log and its figures, what a replay changes, why a
// decision came out, which check a token fails. It prints what other packages have computed, and computes nothing. Behind replay, log, explain,
// check and token.
package report
