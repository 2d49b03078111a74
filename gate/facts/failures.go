package facts

import (
	"errors"
	"sync/atomic"

	"gatehouse/directory"
)

// The reasons for which a question has no answer.
const (
	failedLimit     = iota // of directory.limits, or of this package
	failedCircular         // a permission that excludes those who have it
	failedType             // a type that the manifest lacks
	failedRelation         // a relation or permission that the manifest lacks
	failedAmbiguous        // an identity of two users
	failedArgument         // an argument that is missing, unknown or of another type
	failures
)

// FailureReasons are the names of the reasons.
var FailureReasons = [failures]string{"limit", "circular", "unknown_type", "unknown_relation", "ambiguous_identity", "invalid_argument"}

// Failures counts questions to the directory that have no answer, by reason. The zero value is ready; nil counts nothing.
type Failures struct{ counts [failures]atomic.Uint64 }

// Note counts the failure that an error is. nil is none.
func (f *Failures) Note(err error) {
	if f != nil && err != nil {
		f.counts[reasonOf(err)].Add(1)
	}
}

// Counts returns the counts, in the order of FailureReasons.
func (f *Failures) Counts() (out [failures]uint64) {
	for i := range f.counts {
		out[i] = f.counts[i].Load()
	}
	return out
}

func reasonOf(err error) int {
	for _, is := range [...]struct {
		err    error
		reason int
	}{{directory.ErrLimit, failedLimit}, {errMany, failedLimit}, {errLarge, failedLimit}, {directory.ErrCircular, failedCircular}, {directory.ErrUnknownType, failedType},
		{directory.ErrUnknownRelation, failedRelation}, {errNoRelation, failedRelation}, {directory.ErrAmbiguous, failedAmbiguous}} {
		if errors.Is(err, is.err) {
			return is.reason
		}
	}
	return failedArgument
}
