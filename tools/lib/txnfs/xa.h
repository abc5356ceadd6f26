/*
 * xa.h - the interface between transaction managers and resource managers, as X/Open's specification has it
 * (Distributed Transaction Processing: The XA Specification, C193, 1991).
 *
 * Only names, types and values: what the calls do is the specification's. A program that has another xa.h includes that
 * one first; they are all alike.
 */
#ifndef XA_H
#define XA_H

#ifdef __cplusplus
extern "C" {
#endif

/* ---- transaction branch identification ---- */

#define XIDDATASIZE 128
#define MAXGTRIDSIZE 64
#define MAXBQUALSIZE 64

struct xid_t {
	long formatID;     /* -1: the XID is null */
	long gtrid_length; /* 1 to MAXGTRIDSIZE: the global transaction, first in data */
	long bqual_length; /* 1 to MAXBQUALSIZE: the branch, behind it */
	char data[XIDDATASIZE];
};
typedef struct xid_t XID;

/* ---- what a transaction manager offers (dynamic registration) ---- */

extern int ax_reg(int rmid, XID *xid, long flags);
extern int ax_unreg(int rmid, long flags);

/* ---- what a resource manager offers ---- */

#define RMNAMESZ 32     /* with the NUL */
#define MAXINFOSIZE 256 /* of an xa_info string, with the NUL */

struct xa_switch_t {
	char name[RMNAMESZ];
	long flags;
	long version; /* 0 */
	int (*xa_open_entry)(char *xa_info, int rmid, long flags);
	int (*xa_close_entry)(char *xa_info, int rmid, long flags);
	int (*xa_start_entry)(XID *xid, int rmid, long flags);
	int (*xa_end_entry)(XID *xid, int rmid, long flags);
	int (*xa_rollback_entry)(XID *xid, int rmid, long flags);
	int (*xa_prepare_entry)(XID *xid, int rmid, long flags);
	int (*xa_commit_entry)(XID *xid, int rmid, long flags);
	int (*xa_recover_entry)(XID *xids, long count, int rmid, long flags);
	int (*xa_forget_entry)(XID *xid, int rmid, long flags);
	int (*xa_complete_entry)(int *handle, int *retval, int rmid, long flags);
};

/* ---- flags: of the switch ---- */

#define TMNOFLAGS 0x00000000L
#define TMREGISTER 0x00000001L  /* dynamic registration */
#define TMNOMIGRATE 0x00000002L /* no migration of associations */
#define TMUSEASYNC 0x00000004L  /* asynchronous calls */

/* ---- flags: of the calls ---- */

#define TMASYNC 0x80000000L
#define TMONEPHASE 0x40000000L
#define TMFAIL 0x20000000L
#define TMNOWAIT 0x10000000L
#define TMRESUME 0x08000000L
#define TMSUCCESS 0x04000000L
#define TMSUSPEND 0x02000000L
#define TMSTARTRSCAN 0x01000000L
#define TMENDRSCAN 0x00800000L
#define TMMULTIPLE 0x00400000L
#define TMJOIN 0x00200000L
#define TMMIGRATE 0x00100000L

/* ---- results of ax_ calls ---- */

#define TM_JOIN 2
#define TM_RESUME 1
#define TM_OK 0
#define TMER_TMERR (-1)
#define TMER_INVAL (-2)
#define TMER_PROTO (-3)

/* ---- results of xa_ calls ---- */

#define XA_RBBASE 100
#define XA_RBROLLBACK XA_RBBASE        /* rolled back, for no particular reason */
#define XA_RBCOMMFAIL (XA_RBBASE + 1)  /* communication inside of the resource manager failed */
#define XA_RBDEADLOCK (XA_RBBASE + 2)  /* a deadlock */
#define XA_RBINTEGRITY (XA_RBBASE + 3) /* the resource's integrity would be violated */
#define XA_RBOTHER (XA_RBBASE + 4)     /* another reason */
#define XA_RBPROTO (XA_RBBASE + 5)     /* a protocol error inside of the resource manager */
#define XA_RBTIMEOUT (XA_RBBASE + 6)   /* it took too long */
#define XA_RBTRANSIENT (XA_RBBASE + 7) /* it may be tried again */
#define XA_RBEND XA_RBTRANSIENT

#define XA_NOMIGRATE 9 /* must be resumed where it was suspended */
#define XA_HEURHAZ 8   /* may have been completed heuristically */
#define XA_HEURCOM 7   /* has been committed heuristically */
#define XA_HEURRB 6    /* has been rolled back heuristically */
#define XA_HEURMIX 5   /* in part the one, in part the other */
#define XA_RETRY 4     /* nothing has happened: call again */
#define XA_RDONLY 3    /* the branch has changed nothing, and is gone */
#define XA_OK 0

#define XAER_ASYNC (-2)   /* asynchronous operation already outstanding, or there are none */
#define XAER_RMERR (-3)   /* an error of the resource manager */
#define XAER_NOTA (-4)    /* the XID is not known */
#define XAER_INVAL (-5)   /* invalid arguments */
#define XAER_PROTO (-6)   /* called in an improper context */
#define XAER_RMFAIL (-7)  /* the resource manager is not available */
#define XAER_DUPID (-8)   /* the XID exists already */
#define XAER_OUTSIDE (-9) /* the resource manager is at work outside of any global transaction */

#ifdef __cplusplus
}
#endif
#endif
