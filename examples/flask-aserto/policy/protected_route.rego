package example.GET.protected_route.__parameter

default allowed := false

default visible := false

default enabled := false

# Members of the group of viewers may read everything.
allowed if "viewers" in input.user.groups

# Everyone who is in the directory may read what is public.
allowed if {
	input.user.id
	input.resource.parameter == "public"
}

# And what is shared with him, which the directory knows.
allowed if ds.check({
	"object_type": "resource",
	"object_id": input.resource.parameter,
	"relation": "can_read",
	"subject_type": "user",
	"subject_id": input.user.id,
})

visible if input.user.id

enabled if "viewers" in input.user.groups
