-- bundles that passed their checks; the tarballs are files named by archive
create table revision (
  id integer primary key, project text not null, digest text not null, archive text not null, size integer not null, decision text not null,
  message text not null, actor text not null, at integer not null, files integer not null, rules integer not null, tests integer not null, smoke integer not null
) strict;
create unique index revision_digest on revision (project, digest);

-- what environments were pointed at: the highest sequence counts
create table promotion (
  environment integer not null references environment, sequence integer not null, action text not null, revision integer not null references revision,
  previous integer references revision, actor text not null, message text not null, at integer not null,
  primary key (environment, sequence)
) strict;

create table audit (
  id integer primary key autoincrement, at integer not null, actor text not null, peer text not null, action text not null, subject text not null,
  refused integer not null, detail text not null
) strict;
create index audit_refused on audit (refused, id);
