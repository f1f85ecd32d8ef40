<!-- escaping_src.pml:3:3: src='../test_parse.py' leaves the schema's folder; expected a file inside it -->
<schema name="s">
  <module name="a" src="../test_parse.py"/>
</schema>
