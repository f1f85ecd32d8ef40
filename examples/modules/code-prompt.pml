<prompt schema="code" max_tokens="48">
  <unit/>
  <board/>
  <![CDATA[
# A function that tells whether a unit may move down:
def can_move_down(board, unit):
    return]]>
</prompt>
