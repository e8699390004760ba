/* The floor: a directory read into memory once, served by libfuse and nothing else.
 *
 *     floor SOURCE MOUNTPOINT
 *
 * One thread, the low-level interface, attributes with every entry, everything kept for ever: what
 * the kernel and libfuse cost when the file system itself costs nothing.
 */
#define FUSE_USE_VERSION 34
#define _GNU_SOURCE

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOR_EVER 1e6

struct node {
    char *name, *data;
    uint64_t parent, next_in_bucket;
    uint64_t *children;
    size_t count, size;
    int is_dir;
};

/* nodes[ino]; number 1 is the root, 0 is nobody. */
static struct node *nodes;
static uint64_t used = 1, room, *buckets, bucket_count;

static void *must(void *memory)
{
    if (memory == NULL)
        err(1, "memory");
    return memory;
}

static uint64_t bucket_of(uint64_t parent, const char *name)
{
    uint64_t hash = 1469598103934665603ULL ^ parent * 0x9E3779B97F4A7C15ULL;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211ULL;
    return (hash ^ hash >> 29) % bucket_count;
}

static uint64_t find(uint64_t parent, const char *name)
{
    uint64_t ino = buckets[bucket_of(parent, name)];
    while (ino && (nodes[ino].parent != parent || strcmp(nodes[ino].name, name) != 0))
        ino = nodes[ino].next_in_bucket;
    return ino;
}

/* -- reading the source -- */

static uint64_t add(uint64_t parent, const char *name, int is_dir)
{
    if (used >= room)
        nodes = must(realloc(nodes, (room = room ? 2 * room : 1024) * sizeof *nodes));
    nodes[used] = (struct node){.name = must(strdup(name)), .parent = parent, .is_dir = is_dir};
    return used++;
}

static void load_file(int dirfd, uint64_t ino, size_t size)
{
    int fd = openat(dirfd, nodes[ino].name, O_RDONLY);
    if (fd < 0)
        err(1, "%s", nodes[ino].name);
    char *data = must(malloc(size + 1));
    for (size_t have = 0; have < size;) {
        ssize_t got = read(fd, data + have, size - have);
        if (got <= 0)
            err(1, "%s", nodes[ino].name);
        have += got;
    }
    close(fd);
    nodes[ino].data = data;
    nodes[ino].size = size;
}

static void load_directory(int dirfd, uint64_t ino)
{
    DIR *dir = must(fdopendir(dirfd));
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            err(1, "%s", entry->d_name);
        uint64_t child = add(ino, entry->d_name, S_ISDIR(st.st_mode));
        struct node *node = &nodes[ino];
        if ((node->count & (node->count - 1)) == 0) /* full at each power of two */
            node->children = must(realloc(node->children, 2 * (node->count + 1) * sizeof(uint64_t)));
        node->children[node->count++] = child;
        if (S_ISDIR(st.st_mode))
            load_directory(openat(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY), child);
        else
            load_file(dirfd, child, st.st_size);
    }
    closedir(dir);
}

static void load(const char *source)
{
    add(0, "", 0);
    nodes[1].is_dir = 1;
    int fd = open(source, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        err(1, "%s", source);
    load_directory(fd, 1);
    bucket_count = 2 * used + 1;
    buckets = must(calloc(bucket_count, sizeof *buckets));
    for (uint64_t ino = 2; ino < used; ino++) {
        uint64_t bucket = bucket_of(nodes[ino].parent, nodes[ino].name);
        nodes[ino].next_in_bucket = buckets[bucket];
        buckets[bucket] = ino;
    }
}

/* -- serving it -- */

static struct stat attributes(uint64_t ino)
{
    const struct node *node = &nodes[ino];
    return (struct stat){
        .st_ino = ino,
        .st_mode = node->is_dir ? S_IFDIR | 0755 : S_IFREG | 0644,
        .st_nlink = node->is_dir ? 2 : 1,
        .st_size = node->size,
        .st_blocks = (node->size + 511) / 512,
        .st_uid = getuid(),
        .st_gid = getgid(),
    };
}

static struct fuse_entry_param entry_of(uint64_t ino)
{
    return (struct fuse_entry_param){
        .ino = ino, .attr = attributes(ino), .attr_timeout = FOR_EVER, .entry_timeout = FOR_EVER};
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = entry_of(find(parent, name)); /* 0: not there, to be remembered */
    fuse_reply_entry(req, &entry);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct stat st = attributes(ino);
    fuse_reply_attr(req, &st, FOR_EVER);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    const struct node *node = &nodes[ino];
    if ((size_t)off >= node->size)
        fuse_reply_buf(req, NULL, 0);
    else
        fuse_reply_buf(req, node->data + off, node->size - off < size ? node->size - off : size);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, int plus)
{
    const struct node *node = &nodes[ino];
    char *page = must(malloc(size));
    size_t filled = 0;
    for (size_t i = off; i < node->count; i++) {
        struct fuse_entry_param entry = entry_of(node->children[i]);
        const char *name = nodes[entry.ino].name;
        size_t length =
            plus ? fuse_add_direntry_plus(req, page + filled, size - filled, name, &entry, i + 1)
                 : fuse_add_direntry(req, page + filled, size - filled, name, &entry.attr, i + 1);
        if (length > size - filled)
            break;
        filled += length;
    }
    fuse_reply_buf(req, page, filled);
    free(page);
}

static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, 0);
}

static void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, 1);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
    .readdir = on_readdir,
    .readdirplus = on_readdirplus,
};

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: floor SOURCE MOUNTPOINT");
    load(argv[1]);
    char *words[] = {argv[0], "-ofsname=floor,subtype=floor,ro", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, words);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session == NULL || fuse_set_signal_handlers(session) != 0)
        errx(1, "no session");
    if (fuse_session_mount(session, argv[2]) != 0)
        errx(1, "not mounted");
    int status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status < 0;
}
