# Perl's LWP and HTTP::Tiny. Usage: perl visit.pl PORT
use strict;
use warnings;
use HTTP::Tiny;
use LWP::UserAgent;

my $base = "http://127.0.0.1:$ARGV[0]";
my $agent = LWP::UserAgent->new(keep_alive => 1);
print $agent->get("$base/?from=lwp")->code, "\n";
print $agent->post("$base/form", [ name => 'Kim', n => 3 ])->code, "\n";
print $agent->delete("$base/seats/1")->code, "\n";
my $tiny = HTTP::Tiny->new;
my @parts = ("in ", "pieces\n");
print $tiny->get("$base/?from=tiny")->{status}, "\n";
print $tiny->request('POST', "$base/upload", { content => sub { shift @parts } })->{status}, "\n";
