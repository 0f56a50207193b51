#include "binding/stall_remedy.h"

#include <stddef.h>
#include <string.h>

#define DRIVER "sync-driver"
#define CALL "blocking-call"
#define CPU "cpu-bound-step"

/* When a row holds. */
enum { SLEEPS = 1, COMPUTES = 2, EITHER = SLEEPS | COMPUTES };

/* A frame is this library's when its file's path contains `path` (and not `unless`) and its
 * qualified name begins with one of `names`, separated by blanks; NULL: any. */
typedef struct {
    int when;
    const char *path, *unless, *names;
    taut_stall_known known;
} row;

#define SYNC(library) library " waits for its server on the event loop's thread, synchronously"
#define FILES "a file is read or written on the event loop's thread, which waits for it"
#define OFF_LOOP(call) "run it on a thread: await asyncio.to_thread(" call ")"
#define CPU_HEAVY(what)                                                                            \
    what " keeps the event loop's thread computing, and holds the interpreter's lock (GIL) "       \
         "meanwhile"
#define OTHER_PROCESS(call)                                                                        \
    "do it in another process, since a thread would hold the GIL: await "                          \
    "loop.run_in_executor(concurrent.futures.ProcessPoolExecutor(), " call ")"
#define HTTP                                                                                       \
    "use an asynchronous client, made once and shared: client = httpx.AsyncClient(); response = "  \
    "await client.get(url) (or aiohttp.ClientSession); else "
#define MAIL "use an asynchronous client (aiosmtplib, aioimaplib), or "

static const row rows[] = {
    /* ---- databases ---- */
    {SLEEPS,
     "/psycopg2/",
     NULL,
     NULL,
     {DRIVER, SYNC("psycopg2"),
      "use psycopg 3 (conn = await psycopg.AsyncConnection.connect(dsn); await "
      "conn.execute(query)) or asyncpg; else " OFF_LOOP("cursor.execute, query")}},
    {SLEEPS,
     "/psycopg/",
     NULL,
     "Connection. Cursor. ServerCursor. ClientCursor. wait",
     {DRIVER, SYNC("psycopg's Connection"),
      "use its asynchronous side: conn = await psycopg.AsyncConnection.connect(dsn); await "
      "conn.execute(query)"}},
    {SLEEPS,
     "/psycopg_pool/",
     NULL,
     "ConnectionPool. NullConnectionPool.",
     {DRIVER, SYNC("psycopg_pool's ConnectionPool"),
      "use its asynchronous side: async with pool.connection() of a "
      "psycopg_pool.AsyncConnectionPool"}},
    {SLEEPS,
     "/pymysql/",
     NULL,
     NULL,
     {DRIVER, SYNC("pymysql"),
      "use aiomysql or asyncmy: conn = await asyncmy.connect(...); else " OFF_LOOP(
          "cursor.execute, query")}},
    {SLEEPS,
     "/MySQLdb/",
     NULL,
     NULL,
     {DRIVER, SYNC("MySQLdb"),
      "use aiomysql or asyncmy: conn = await asyncmy.connect(...); else " OFF_LOOP(
          "cursor.execute, query")}},
    {SLEEPS,
     "/mysql/connector/",
     "/mysql/connector/aio/",
     NULL,
     {DRIVER, SYNC("mysql.connector"),
      "use its asynchronous side: conn = await mysql.connector.aio.connect(...)"}},
    {SLEEPS,
     "/sqlalchemy/",
     NULL,
     NULL,
     {DRIVER,
      "SQLAlchemy waits for the database on the event loop's thread, through a synchronous "
      "driver",
      "use its asynchronous side: engine = create_async_engine('postgresql+asyncpg://...'); async "
      "with AsyncSession(engine) as session: await session.execute(query)"}},
    {SLEEPS,
     "/redis/",
     "/redis/asyncio/",
     NULL,
     {DRIVER, SYNC("redis.Redis"),
      "use its asynchronous side: client = redis.asyncio.Redis(...); await client.get(key)"}},
    {SLEEPS,
     "/pymongo/",
     "/pymongo/asynchronous/",
     NULL,
     {DRIVER, SYNC("pymongo's MongoClient"),
      "use its asynchronous side: client = pymongo.AsyncMongoClient(uri); await "
      "client.db.items.find_one(query)"}},
    {SLEEPS,
     "/elasticsearch/",
     "/elasticsearch/_async/",
     NULL,
     {DRIVER, SYNC("elasticsearch.Elasticsearch"),
      "use its asynchronous side: client = elasticsearch.AsyncElasticsearch(...); await "
      "client.search(...)"}},
    {SLEEPS,
     "/cassandra/",
     NULL,
     NULL,
     {DRIVER, SYNC("cassandra-driver"),
      "wrap its futures instead of waiting for them, or " OFF_LOOP("session.execute, query")}},
    {SLEEPS,
     "/neo4j/",
     "/neo4j/_async/",
     NULL,
     {DRIVER, SYNC("neo4j.GraphDatabase"),
      "use its asynchronous side: neo4j.AsyncGraphDatabase.driver(uri)"}},

    /* ---- HTTP, cloud, messages ---- */
    {SLEEPS,
     "/boto3/",
     NULL,
     NULL,
     {DRIVER, SYNC("boto3"),
      "use aioboto3 (async with session.client('s3') as s3: await s3.get_object(...)), "
      "or " OFF_LOOP("s3.get_object, Bucket=bucket, Key=key")}},
    {SLEEPS,
     "/botocore/",
     NULL,
     NULL,
     {DRIVER, SYNC("boto3"),
      "use aioboto3 (async with session.client('s3') as s3: await s3.get_object(...)), "
      "or " OFF_LOOP("s3.get_object, Bucket=bucket, Key=key")}},
    {SLEEPS,
     "/requests/",
     NULL,
     NULL,
     {DRIVER, SYNC("requests"), HTTP OFF_LOOP("requests.get, url")}},
    {SLEEPS,
     "/httpx/_client.py",
     NULL,
     "Client.",
     {DRIVER, SYNC("httpx.Client"),
      "use its asynchronous side, made once and shared: client = httpx.AsyncClient(); response = "
      "await client.get(url)"}},
    {SLEEPS,
     "/httpx/_api.py",
     NULL,
     NULL,
     {DRIVER, SYNC("httpx.get() (and its kin)"),
      "use its asynchronous side, made once and shared: client = httpx.AsyncClient(); response = "
      "await client.get(url)"}},
    {SLEEPS,
     "/urllib3/",
     NULL,
     NULL,
     {DRIVER, SYNC("urllib3"), HTTP OFF_LOOP("pool.request, 'GET', url")}},
    {SLEEPS,
     "/urllib/request.py",
     NULL,
     NULL,
     {DRIVER, SYNC("urllib.request"), HTTP OFF_LOOP("urllib.request.urlopen, url")}},
    {SLEEPS,
     "/http/client.py",
     NULL,
     NULL,
     {DRIVER, SYNC("http.client"), HTTP OFF_LOOP("connection.getresponse")}},
    {SLEEPS,
     "/grpc/",
     "/grpc/aio/",
     NULL,
     {DRIVER, SYNC("grpc"),
      "use its asynchronous side: async with grpc.aio.insecure_channel(target) as channel: await "
      "stub.Method(request)"}},
    {SLEEPS,
     "/kafka/",
     NULL,
     NULL,
     {DRIVER, SYNC("kafka-python"),
      "use aiokafka: producer = aiokafka.AIOKafkaProducer(...); await "
      "producer.send_and_wait(topic, value)"}},
    {SLEEPS,
     "/pika/",
     NULL,
     NULL,
     {DRIVER, SYNC("pika"), "use aio-pika: connection = await aio_pika.connect_robust(url)"}},
    {SLEEPS,
     "/paramiko/",
     NULL,
     NULL,
     {DRIVER, SYNC("paramiko"),
      "use asyncssh: async with asyncssh.connect(host) as conn: await conn.run(command)"}},
    {SLEEPS,
     "/smtplib.py",
     NULL,
     NULL,
     {DRIVER, SYNC("smtplib"), MAIL OFF_LOOP("smtp.send_message, message")}},
    {SLEEPS,
     "/imaplib.py",
     NULL,
     NULL,
     {DRIVER, SYNC("imaplib"), MAIL OFF_LOOP("imap.fetch, ids, '(RFC822)'")}},
    {SLEEPS, "/poplib.py", NULL, NULL, {DRIVER, SYNC("poplib"), MAIL OFF_LOOP("pop.retr, n")}},
    {SLEEPS,
     "/ftplib.py",
     NULL,
     NULL,
     {DRIVER, SYNC("ftplib"), "use aioftp, or " OFF_LOOP("ftp.retrbinary, command, file.write")}},
    {SLEEPS,
     "/xmlrpc/client.py",
     NULL,
     NULL,
     {DRIVER, SYNC("xmlrpc.client"), OFF_LOOP("proxy.method, argument")}},
    {SLEEPS,
     "/ldap3/",
     NULL,
     NULL,
     {DRIVER, SYNC("ldap3"), OFF_LOOP("connection.search, base, query")}},

    /* ---- the standard library ---- */
    {EITHER,
     "/ssl.py",
     NULL,
     "create_default_context SSLContext.load_",
     {NULL, "an SSLContext reads certificates from disk",
      "make it once, with await taut.ssl_context(), which does that off the loop"}},
    {SLEEPS,
     "/ssl.py",
     NULL,
     NULL,
     {DRIVER, "a TLS socket in blocking mode waits for its other end on the event loop's thread",
      "use the loop's own: reader, writer = await asyncio.open_connection(host, port, ssl=True)"}},
    {SLEEPS,
     "/subprocess.py",
     NULL,
     NULL,
     {DRIVER, "subprocess waits for a child process on the event loop's thread",
      "let the loop wait for it: process = await asyncio.create_subprocess_exec(program, *args, "
      "stdout=asyncio.subprocess.PIPE); out, err = await process.communicate()"}},
    {SLEEPS,
     "/socket.py",
     NULL,
     "getaddrinfo getfqdn",
     {DRIVER, "a host's name is looked up on the event loop's thread, which waits for the answer",
      "let the loop look it up: await asyncio.get_running_loop().getaddrinfo(host, port)"}},
    {SLEEPS,
     "/socket.py",
     NULL,
     NULL,
     {DRIVER, "a socket in blocking mode waits for its other end on the event loop's thread",
      "use the loop's own: reader, writer = await asyncio.open_connection(host, port)"}},
    {SLEEPS,
     "/socketserver.py",
     NULL,
     NULL,
     {DRIVER, "socketserver waits for clients on the event loop's thread",
      "use await asyncio.start_server(handle, host, port), or " OFF_LOOP("server.serve_forever")}},
    {SLEEPS,
     "/logging/",
     NULL,
     NULL,
     {CALL,
      "a log handler writes on the event loop's thread and waits, since whoever should read "
      "that (a full pipe, a slow disk, a remote host) does not keep up",
      "let a thread of its own write the log: queue = queue.SimpleQueue(); "
      "logging.handlers.QueueListener(queue, handler).start(); "
      "logger.addHandler(logging.handlers.QueueHandler(queue))"}},
    {SLEEPS,
     "/concurrent/futures/",
     NULL,
     NULL,
     {CALL, "the event loop's thread waits for a concurrent.futures.Future or an executor",
      "await it: result = await asyncio.wrap_future(future), or await loop.run_in_executor(pool, "
      "function, *args)"}},
    {SLEEPS,
     "/multiprocessing/",
     NULL,
     NULL,
     {CALL, "multiprocessing waits for another process on the event loop's thread",
      "use a pool that can be awaited: await loop.run_in_executor("
      "concurrent.futures.ProcessPoolExecutor(), function, *args)"}},
    {SLEEPS,
     "/queue.py",
     NULL,
     NULL,
     {CALL, "a queue.Queue makes the event loop's thread wait",
      "use asyncio.Queue (item = await queue.get()); for items from threads: "
      "loop.call_soon_threadsafe(queue.put_nowait, item)"}},
    {SLEEPS,
     "/threading.py",
     NULL,
     "Thread.",
     {CALL, "the event loop's thread waits for another thread to start or end",
      "wait for it on a thread (await asyncio.to_thread(thread.join)), or make it by await "
      "asyncio.to_thread(function)"}},
    {SLEEPS,
     "/threading.py",
     NULL,
     NULL,
     {CALL, "a lock, event or condition of threading makes the event loop's thread wait",
      "among tasks use asyncio.Lock, asyncio.Event or asyncio.Condition (async with lock: ...); "
      "for one that threads share: await asyncio.to_thread(event.wait)"}},
    {EITHER,
     "<frozen importlib",
     NULL,
     NULL,
     {NULL, "a module is imported while the event loop runs",
      "import it at the top of the file, before the loop starts"}},
    {SLEEPS, "/pathlib", NULL, NULL, {CALL, FILES, OFF_LOOP("path.read_bytes")}},
    {SLEEPS, "/shutil.py", NULL, NULL, {CALL, FILES, OFF_LOOP("shutil.copyfile, source, to")}},
    {SLEEPS, "/tempfile.py", NULL, NULL, {CALL, FILES, OFF_LOOP("function, ...")}},
    {SLEEPS, "/tarfile.py", NULL, NULL, {CALL, FILES, OFF_LOOP("archive.extractall, to")}},
    {SLEEPS, "/zipfile", NULL, NULL, {CALL, FILES, OFF_LOOP("archive.extractall, to")}},

    /* ---- what computes ---- */
    {COMPUTES,
     "/json/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("json"),
      "make it smaller (pages, lines, a faster parser such as orjson), or " OTHER_PROCESS(
          "json.loads, data")}},
    {COMPUTES,
     "/re/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("a regular expression"),
      "limit what it is given (text[:1000]) and rewrite a pattern that backtracks, such as (a+)+; "
      "else " OTHER_PROCESS("re.match, pattern, text")}},
    {COMPUTES,
     "/pickle.py",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("pickle"), OTHER_PROCESS("pickle.loads, data")}},
    {COMPUTES,
     "/copy.py",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("copy.deepcopy()"),
      "copy what is changed only (dict(x), dataclasses.replace(x, ...)), or share what nobody "
      "changes"}},
    {COMPUTES,
     "/bcrypt/",
     NULL,
     NULL,
     {CPU, "bcrypt computes a hash on the event loop's thread, slowly on purpose",
      "it gives up the GIL: await asyncio.to_thread(bcrypt.checkpw, password, hashed)"}},
    {COMPUTES,
     "/passlib/",
     NULL,
     NULL,
     {CPU, "passlib computes a hash on the event loop's thread, slowly on purpose",
      OFF_LOOP("context.verify, password, hashed")}},
    {COMPUTES,
     "/argon2/",
     NULL,
     NULL,
     {CPU, "argon2 computes a hash on the event loop's thread, slowly on purpose",
      "it gives up the GIL: await asyncio.to_thread(hasher.verify, hashed, password)"}},
    {COMPUTES,
     "/hashlib.py",
     NULL,
     NULL,
     {CPU, "a hash is computed on the event loop's thread",
      "it gives up the GIL for large inputs: await asyncio.to_thread(hashlib.file_digest, file, "
      "'sha256')"}},
    {COMPUTES,
     "/gzip.py",
     NULL,
     NULL,
     {CPU, "gzip compresses or expands on the event loop's thread",
      "it gives up the GIL: await asyncio.to_thread(gzip.compress, data)"}},
    {COMPUTES,
     "/bz2.py",
     NULL,
     NULL,
     {CPU, "bz2 compresses or expands on the event loop's thread",
      "it gives up the GIL: await asyncio.to_thread(bz2.compress, data)"}},
    {COMPUTES,
     "/lzma.py",
     NULL,
     NULL,
     {CPU, "lzma compresses or expands on the event loop's thread",
      "it gives up the GIL: await asyncio.to_thread(lzma.compress, data)"}},
    {COMPUTES,
     "/zipfile",
     NULL,
     NULL,
     {CPU, "an archive is packed or unpacked on the event loop's thread",
      OFF_LOOP("archive.extractall, to")}},
    {COMPUTES,
     "/tarfile.py",
     NULL,
     NULL,
     {CPU, "an archive is packed or unpacked on the event loop's thread",
      OFF_LOOP("archive.extractall, to")}},
    {COMPUTES,
     "/csv.py",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("csv"), "read some rows at a time with await asyncio.sleep(0) in between"}},
    {COMPUTES,
     "/xml/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("an XML parser"), OTHER_PROCESS("parse, data")}},
    {COMPUTES,
     "/yaml/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("PyYAML"),
      "use its parser in C (yaml.load(text, yaml.CSafeLoader)), or " OTHER_PROCESS(
          "yaml.safe_load, text")}},
    {COMPUTES,
     "/bs4/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("BeautifulSoup"), OTHER_PROCESS("parse, page")}},
    {COMPUTES,
     "/pandas/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("pandas"), OTHER_PROCESS("function, frame")}},
    {COMPUTES,
     "/PIL/",
     NULL,
     NULL,
     {CPU, "an image is processed on the event loop's thread",
      "Pillow gives up the GIL in most operations: await asyncio.to_thread(image.resize, size)"}},
    {COMPUTES,
     "/jinja2/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("a template"),
      "render less at once, or in parts: async for part in template.generate_async(...)"}},
    {COMPUTES,
     "/pydantic/",
     NULL,
     NULL,
     {CPU, CPU_HEAVY("validation by pydantic"),
      "validate smaller parts, with await asyncio.sleep(0) in between, or " OTHER_PROCESS(
          "Model.model_validate_json, data")}},
};

static const taut_stall_known calls[] = {
    [TAUT_BLOCKED_UNKNOWN] =
        {CALL, "the event loop's thread is asleep in a call that this line makes",
         "take it off the loop (await asyncio.to_thread(function, ...)), or use a library that is "
         "made for asyncio"},
    [TAUT_BLOCKED_SLEEP] =
        {CALL, "time.sleep() puts the event loop's thread to sleep, and every task with it",
         "sleep as a task: await asyncio.sleep(seconds)"},
    [TAUT_BLOCKED_NAP] =
        {CALL,
         "a library in C sleeps before it tries something again, as sqlite3 does while "
         "another connection has locked the database",
         "take it off the loop: await asyncio.to_thread(connection.execute, query); for sqlite3 "
         "there is aiosqlite"},
    [TAUT_BLOCKED_LOCK] =
        {CALL, "the event loop's thread waits for a lock, which some other thread has",
         "among tasks use asyncio.Lock (async with lock: ...); for one that threads share: await "
         "asyncio.to_thread(lock.acquire)"},
    [TAUT_BLOCKED_SOCKET] =
        {DRIVER,
         "a socket in blocking mode, the program's own or that of a driver in C, waits for "
         "its other end on the event loop's thread",
         "use the loop's own (reader, writer = await asyncio.open_connection(host, port), or await "
         "loop.sock_recv(sock, size)) or an asynchronous driver; else " OFF_LOOP("function, ...")},
    [TAUT_BLOCKED_READ] =
        {CALL, "the event loop's thread waits for data from a pipe or FIFO",
         "read it on a thread (data = await asyncio.to_thread(file.read)), or by the loop: await "
         "loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)"},
    [TAUT_BLOCKED_WRITE] =
        {CALL, "the event loop's thread waits for room in a pipe that its reader does not empty",
         "write it by the loop: transport, _ = await loop.connect_write_pipe(Protocol, file); "
         "transport.write(data); log through a logging.handlers.QueueHandler"},
    [TAUT_BLOCKED_TERMINAL] = {CALL, "the event loop's thread waits for somebody to type",
                               "wait on a thread: line = await asyncio.to_thread(input, prompt)"},
    [TAUT_BLOCKED_OPEN] =
        {CALL,
         "the event loop's thread waits for a file to be opened: of a FIFO, for its other "
         "end; else for the disk or a file server",
         "open it on a thread: file = await asyncio.to_thread(open, path)"},
    [TAUT_BLOCKED_DISK] =
        {CALL, FILES,
         "use a thread: data = await asyncio.to_thread(pathlib.Path(path).read_bytes)"},
    [TAUT_BLOCKED_FILE_LOCK] =
        {CALL, "the event loop's thread waits for a file that another process has locked",
         "wait on a thread: await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)"},
    [TAUT_BLOCKED_CHILD] = {CALL, "the event loop's thread waits for a child process to end",
                            "let the loop wait for it: process = await "
                            "asyncio.create_subprocess_exec(program, *args); "
                            "await process.wait()"},
};

static int has_name(const char *name, const char *names) {
    while (*names != '\0') {
        size_t size = strcspn(names, " ");
        if (strncmp(name, names, size) == 0)
            return 1;
        names += size + (names[size] == ' ');
    }
    return 0;
}

static int is_of(const row *r, const char *file, const char *name) {
    return strstr(file, r->path) != NULL && (r->unless == NULL || !strstr(file, r->unless)) &&
           (r->names == NULL || has_name(name, r->names));
}

const taut_stall_known *taut_stall_known_library(const taut_stack *stack, uint32_t count,
                                                 int blocked, uint32_t *at) {
    for (uint32_t i = count < stack->count ? count : stack->count; i-- > 0;) {
        const char *file = stack->text + stack->frames[i].file;
        const char *name = stack->text + stack->frames[i].name;
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            if ((rows[r].when & (blocked ? SLEEPS : COMPUTES)) && is_of(&rows[r], file, name)) {
                *at = i;
                return &rows[r].known;
            }
        }
    }
    return NULL;
}

const taut_stall_known *taut_stall_known_call(enum taut_blocked blocked) {
    return &calls[blocked];
}
