# What runs once in a forked guest. One process and no module but strict: whatever a guest touches costs its host memory.
# It is read from standard input, what it is told comes after __END__: a name and a value in hexadecimal digits a line.
# Done again, or after a kill in the middle, it ends in the same state.
use strict;
local $SIG{__WARN__} = sub { die @_ };

my %told;
while (my $line = <DATA>) {
    my ($name, $hex) = $line =~ /^([a-z0-9_]+) ([0-9a-f]*)$/ or die "what was told cannot be read\n";
    $told{$name} = pack 'H*', $hex;
}
my ($root, $uuid, $host, $user, $was) = @told{qw(root uuid hostname user template_user)};
my $real = $root eq '';    # Else a test's folder, where nothing of the system itself is changed.

sub read_file {
    my ($path) = @_;
    open my $file, '<', "$root$path" or die "read $path: $!\n";
    local $/;
    my $content = <$file>;
    close $file or die "read $path: $!\n";
    return defined $content ? $content : '';
}

# Whole or not at all; the owner and mode of what it takes the place of stay, a new file's are given.
sub write_file {
    my ($path, $content, $mode, $uid, $gid) = @_;
    my @old = stat "$root$path";
    ($mode, $uid, $gid) = ($old[2] & 07777, @old[4, 5]) if @old && !defined $uid;
    my $part = "$root$path.casement";
    unlink $part;
    umask 0077;
    open my $file, '>', $part or die "write $path: $!\n";
    print {$file} $content or die "write $path: $!\n";
    close $file or die "write $path: $!\n";
    chmod $mode, $part or die "chmod $path: $!\n";
    if ($real) { chown $uid || 0, $gid || 0, $part or die "chown $path: $!\n" }
    rename $part, "$root$path" or die "rename $path: $!\n";
}

sub link_to {
    my ($target, $path) = @_;
    return if (readlink "$root$path" || '') eq $target;
    unlink "$root$path";
    symlink $target, "$root$path" or die "link $path: $!\n";
}

# The random stream before anything is drawn from it, the clock before anything is dated.
if ($real) {
    open my $random, '<', '/dev/random' or die "open /dev/random: $!\n";
    my $length = length $told{seed};
    my $pool = pack 'i i a*', 8 * $length, $length, $told{seed};
    ioctl $random, 0x40085203, $pool or die "RNDADDENTROPY: $!\n";
    ioctl $random, 0x5207, 0 or die "RNDRESEEDCRNG: $!\n";
    my $time = pack 'q q', int($told{time_us} / 1_000_000), $told{time_us} % 1_000_000;
    syscall(164, $time, 0) == 0 or die "settimeofday: $!\n";
    my $name = $host;
    syscall(170, $name, length $name) == 0 or die "sethostname: $!\n";
}
if (-e "$root/var/lib/systemd/random-seed") {
    open my $random, '<', '/dev/urandom' or die "open /dev/urandom: $!\n";
    read($random, my $bytes, 512) == 512 or die "read /dev/urandom: $!\n";
    write_file('/var/lib/systemd/random-seed', $bytes, 0600);
}

# Names.
write_file('/etc/hostname', "$host\n", 0644);
my $hosts = -e "$root/etc/hosts" ? read_file('/etc/hosts') : "127.0.0.1 localhost\n";
$hosts =~ s/^127\.0\.1\.1\s.*$/127.0.1.1 $host $host/m or $hosts = "127.0.1.1 $host $host\n$hosts";
write_file('/etc/hosts', $hosts, 0644);

# The machine-id, and with it the folder of the journal, which goes on under the name that its writer knows.
my $old_id = -e "$root/etc/machine-id" ? read_file('/etc/machine-id') : '';
(my $id = $uuid) =~ tr/-//d;
chomp $old_id;
my $journal = "/var/log/journal/$old_id";
if ($old_id =~ /^[0-9a-f]{32}$/ && $old_id ne $id && -d "$root$journal") {
    if (!-l "$root$journal") { rename "$root$journal", "$root/var/log/journal/$id" or die "rename the journal: $!\n" }
    link_to($id, $journal);
}
for my $path ('/etc/machine-id', '/run/machine-id', '/var/lib/dbus/machine-id') {
    write_file($path, "$id\n", 0444) if -f "$root$path" && !-l "$root$path" || $path =~ /^\/etc/;
}

# The host's keys: the template's go, of every kind.
for my $path (glob "$root/etc/ssh/ssh_host_*") {
    unlink $path or die "unlink $path: $!\n";
}
for my $kind (qw(ed25519 ecdsa)) {
    write_file("/etc/ssh/ssh_host_${kind}_key", $told{"${kind}_private"}, 0600);
    write_file("/etc/ssh/ssh_host_${kind}_key.pub", $told{"${kind}_public"}, 0644);
}

# The user, whose processes run on: they know it by its number, and its home by a link where it was.
my @passwd = split /\n/, read_file('/etc/passwd');
my ($template) = grep { /^\Q$was\E:/ } @passwd;
my ($own) = grep { /^\Q$user\E:/ } @passwd;
die "there is another user of this name\n" if $template && $own && $was ne $user;
my @entry = split /:/, $template || $own || die "the template's user is not there\n";
my ($uid, $gid, $old_home) = @entry[2, 3, 5];
my $home = "/home/$user";
if ($was ne $user) {
    if (-d "$root/home/$was" && !-l "$root/home/$was") {
        die "there is a home of this name\n" if -e "$root$home";
        rename "$root/home/$was", "$root$home" or die "rename the home: $!\n";
    }
    link_to($home, "/home/$was");
}
sub rename_in {
    my ($path, $change) = @_;
    return unless -e "$root$path";
    my $before = read_file($path);
    my $after = join '', map { $change->($_) } split /(?<=\n)/, $before;
    write_file($path, $after, 0644) if $after ne $before;
}
my $word = qr/(?<![^:,\n])\Q$was\E(?![^:,\n])/;
rename_in('/etc/passwd', sub {
    my @field = split /:/, $_[0], -1;
    return $_[0] unless $field[0] eq $was || $field[0] eq $user;
    @field[0, 5] = ($user, $home);
    return join ':', @field;
});
rename_in('/etc/shadow', sub {
    my @field = split /:/, $_[0], -1;
    return $_[0] unless $field[0] eq $was || $field[0] eq $user;
    @field[0, 1, 2] = ($user, $told{password_hash} eq '' ? '!' : $told{password_hash}, int(time / 86400));
    return join ':', @field;
});
for my $path (qw(/etc/group /etc/gshadow /etc/subuid /etc/subgid)) {
    rename_in($path, sub { my $line = $_[0]; $line =~ s/$word/$user/g; return $line });
}
rename_in('/etc/sudoers.d/90-cloud-init-users', sub { my $line = $_[0]; $line =~ s/\b\Q$was\E\b/$user/g; return $line });
for my $path (glob "$root/etc/lightdm/lightdm.conf.d/*.conf") {
    rename_in(substr($path, length $root), sub { my $line = $_[0]; $line =~ s/^(autologin-user=)\Q$was\E$/$1$user/; return $line });
}
if ($was ne $user && -e "$root/var/lib/AccountsService/users/$was") {
    rename "$root/var/lib/AccountsService/users/$was", "$root/var/lib/AccountsService/users/$user"
        or die "rename the account: $!\n";
}
if (!-d "$root$home/.ssh") {
    mkdir "$root$home/.ssh", 0700 or die "mkdir .ssh: $!\n";
    if ($real) { chown $uid, $gid, "$root$home/.ssh" or die "chown .ssh: $!\n" }
}
write_file("$home/.ssh/authorized_keys", $told{ssh_keys}, 0600, $uid, $gid);
my $sign_in = $told{password_hash} eq '' ? 'no' : 'yes';
if (-d "$root/etc/ssh/sshd_config.d") {
    write_file('/etc/ssh/sshd_config.d/50-cloud-init.conf', "PasswordAuthentication $sign_in\n", 0600);
}

# Who may show something on the screens that are open is written down by the host's name (of "Local", 256): without this
# no program that is started from now on would come up.
for my $file (
    "$root$home/.Xauthority",
    glob("$root/run/lightdm/*/*"), glob("$root/run/gdm3/*/*"), glob("$root/run/sddm/*"),
    glob("$root/run/user/*/gdm/Xauthority"), glob("$root/run/user/*/xauth_*"),
) {
    next unless -f $file && !-l $file;
    my $path = substr $file, length $root;
    my $before = read_file($path);
    my ($rest, $after) = ($before, '');
    while (length $rest) {
        my ($family, @part) = eval { unpack 'n (n/a)4', $rest };
        last unless @part == 4;
        my $entry = pack 'n (n/a)4', $family, @part;
        last if $entry ne substr $rest, 0, length $entry;
        $part[0] = $host if $family == 256;
        $after .= pack 'n (n/a)4', $family, @part;
        $rest = substr $rest, length $entry;
    }
    write_file($path, $after, 0600) if $rest eq '' && $after ne $before;
}

# cloud-init finds this machine's seed at its next boot, and that all has been done for it.
my $cloud = '/var/lib/cloud';
if (-d "$root$cloud/instances") {
    my $before = readlink "$root$cloud/instance" || '';
    $before =~ s/.*\///;
    if ($before ne '' && $before ne $uuid && -d "$root$cloud/instances/$before") {
        rename "$root$cloud/instances/$before", "$root$cloud/instances/$uuid" or die "rename the instance: $!\n";
    }
    unlink "$root$cloud/instances/$uuid/obj.pkl";
    link_to("$cloud/instances/$uuid", "$cloud/instance");
    write_file("$cloud/data/$_", "$uuid\n", 0644) for qw(instance-id previous-instance-id);
}
unlink glob "$root/etc/systemd/network/10-cloud-init-*";

# sshd reads its keys again; without one there is nothing to do. Then all of it to the disk.
if ($real) {
    my $pid = -e '/run/sshd.pid' ? read_file('/run/sshd.pid') : '';
    chomp $pid;
    if ($pid =~ /^[0-9]+$/ && -e "/proc/$pid/comm" && read_file("/proc/$pid/comm") eq "sshd\n") {
        kill 'HUP', $pid or die "sshd: $!\n";
    }
    syscall 162;
}
$| = 1;
print "casement: identity $uuid\n" or die "print: $!\n";
